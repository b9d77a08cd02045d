"""The public API: one list, silent and light to import, documented and typed."""

import inspect
import os
import re
import subprocess
import sys

import pytest

import dist_oaa
from dist_oaa import plugin
from processes import REPOSITORY


def python(code: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-c", code]
    # Without the variables by which the tests choose paths.
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=env)


def test_importing_the_package_is_silent_and_loads_nothing():
    code = (
        "import dist_oaa, sys; print([m for m in ('torch', 'numpy', 'timm') if m in sys.modules])"
    )
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_the_plugin_is_silent_and_loads_no_network_library():
    heavy = "('timm', 'torchvision', 'ray', 'matplotlib', 'lightning', 'triton', 'cv2')"
    code = (
        f"import dist_oaa, sys; dist_oaa.OnlineCAM; print([m for m in {heavy} if m in sys.modules])"
    )
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_the_lists_agree():
    assert set(dist_oaa.__all__) == {*plugin.__all__, "__version__"}
    assert set(plugin.__all__) <= set(dir(dist_oaa))
    listed = re.findall(r"^\| (\w+) \|", plugin.__doc__, re.MULTILINE)
    assert sorted(set(listed) - {"name"}) == sorted(plugin.__all__)
    for name in plugin.__all__:
        assert getattr(dist_oaa, name) is getattr(plugin, name)


def test_a_name_that_does_not_exist():
    with pytest.raises(AttributeError, match="'dist_oaa' has no attribute 'OnlineCam'"):
        dist_oaa.OnlineCam  # noqa: B018


@pytest.mark.parametrize("name", plugin.__all__)
def test_everything_public_is_documented_and_typed(name):
    part = getattr(plugin, name)
    assert part.__doc__, name
    functions = (
        [
            (key, inspect.unwrap(getattr(value, "__func__", value)))
            for key, value in vars(part).items()
            if (not key.startswith("_") or key == "__init__")
            and inspect.isfunction(getattr(value, "__func__", value))
            and value.__module__.startswith("dist_oaa.plugin")
        ]
        if part.__module__.startswith("dist_oaa.plugin")
        else []
    )
    for key, function in functions:
        assert function.__doc__ or key == "__init__", f"{name}.{key}"
        hints = function.__annotations__
        for parameter in list(inspect.signature(function).parameters)[1:]:
            assert parameter in hints or hasattr(part, "__dataclass_fields__"), (
                f"{name}.{key}: {parameter}"
            )
