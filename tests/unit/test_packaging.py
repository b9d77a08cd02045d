"""Importing the package: silent, light, and possible without any of the extras."""

import ast
import subprocess
import sys

import pytest

from dist_oaa.config.extras import EXTRAS
from processes import REPOSITORY, environment

# Imported by `oaa tune` alone, after it has asked for Ray; and the callback, which needs Lightning.
WITH_EXTRAS = {
    *(f"dist_oaa.stages.tuning.{name}" for name in ("callback", "nodes", "schedule", "trainable")),
    "dist_oaa.plugin.lightning",
}
EVERY_MODULE = """
import importlib, pkgutil, sys
for name in {blocked!r}:
    sys.modules[name] = None
import dist_oaa
imported = 0
def fail(name):
    raise ImportError(name)
for module in pkgutil.walk_packages(dist_oaa.__path__, "dist_oaa.", onerror=fail):
    if module.name in {left_out!r} or module.name.endswith(("__main__", "._native")):
        continue
    importlib.import_module(module.name)
    imported += 1
print(imported)
"""
LIGHT = """
import sys, time
import torch
before = set(sys.modules)
began = time.process_time()
import dist_oaa
dist_oaa.OnlineCAM
took = time.process_time() - began
print(took, *sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""


def python(code: str) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter in which every warning is an error."""
    env = environment()
    env.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


def imports_of(path) -> set[str]:
    """Top-level names of what a file imports as soon as it is imported."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.slow
def test_every_module_is_silent_and_needs_no_extra():
    blocked = [*EXTRAS, "lightning", "pytorch_lightning"]
    done = python(EVERY_MODULE.format(blocked=blocked, left_out=WITH_EXTRAS))
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 150


def test_the_modules_that_want_an_extra_are_these():
    modules = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path
        for path in (REPOSITORY / "dist_oaa").rglob("*.py")
    }
    wanting = {name for name, path in modules.items() if imports_of(path) & set(EXTRAS)}
    assert wanting == WITH_EXTRAS - {"dist_oaa.plugin.lightning"}, "it tries two names"


@pytest.mark.slow
def test_the_public_api_is_light():
    """Seconds of this process's own work, which a busy machine does not lengthen much."""
    done = python(LIGHT)
    assert (done.returncode, done.stderr) == (0, "")
    took, *loaded = done.stdout.split()
    heavy = {"ray", "cv2", "tensorboard", "torchvision", "timm", "scipy", "onnx", "torchmetrics"}
    assert "dist_oaa" in loaded
    assert not (heavy | set(EXTRAS)) & set(loaded)
    assert float(took) < 1, "beyond torch's own import"


def test_the_command_line_loads_a_stage_only_when_it_is_called():
    code = (
        "import sys, dist_oaa.cli as c; c.usage();"
        "print([m for m in ('torch', 'cv2', 'numpy', 'ray', 'tensorboard') if m in sys.modules])"
    )
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
