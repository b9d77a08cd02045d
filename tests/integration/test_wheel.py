"""The wheel as users get it: built from the sdist, installed elsewhere, run far from the sources.

The environment sees the packages that the tests run with, but not this checkout; so it takes
seconds, and what is missing from the wheel is missing there.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from dist_oaa import __version__
from processes import REPOSITORY
from small_table import log_metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("build") is None, reason="needs build: pip install 'dist_oaa[dev]'"
    ),
]

# A checkout has them; a wheel must do without.
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "dist_oaa", "configs", "tests")
LEAVE = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")


def run(*command: object, cwd: Path, seconds: float = 120) -> subprocess.CompletedProcess:
    """Runs a command without anything that points to the checkout."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "OAA_"))}
    env |= {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder of an sdist, and of the wheel that was built from it alone."""
    tree = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=LEAVE)
        else:
            shutil.copy2(source, tree / name)
    done = run(sys.executable, "-m", "build", "--no-isolation", tree, cwd=tree, seconds=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return tree / "dist"


@pytest.fixture(scope="module")
def bin_dir(built, tmp_path_factory) -> Path:
    """The bin/ of a new environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    install = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel)
    done = run(sys.executable, "-m", "pip", "--python", python, "install", *install, cwd=folder)
    assert done.returncode == 0, done.stderr
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # The plain path alone: files like the one that leads to the checkout are not followed.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.fixture
def cwd(tmp_path) -> Path:
    return tmp_path


def test_the_sdist_has_what_a_wheel_is_made_of(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    for path in REPOSITORY.glob("dist_oaa/attention/native*"):
        assert str(path.relative_to(REPOSITORY)) in names
    assert {"pyproject.toml", "README.md", "configs/demo/pipeline.yaml"} <= names


def test_what_the_wheel_holds(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(f"dist_oaa-{__version__}.dist-info/METADATA").decode()
    assert {"dist_oaa/py.typed", "dist_oaa/stages/page/template.html"} <= set(names)
    modules = {str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "dist_oaa").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}
    presets = {name.split("/share/dist_oaa/")[1] for name in names if "/share/dist_oaa/" in name}
    assert presets == {
        str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "configs").rglob("*.yaml")
    }
    assert any("_native" in name and name.endswith(".so") for name in names)
    assert "Provides-Extra: wsol" in metadata
    plain = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    plain = [line for line in plain if "extra ==" not in line]
    assert not [line for line in plain if "ray" in line or "matplotlib" in line]


def test_the_command(bin_dir, cwd):
    done = run(bin_dir / "oaa", "--version", cwd=cwd)
    assert (done.returncode, done.stdout) == (0, f"dist_oaa {__version__}\n")


def test_its_settings_files_are_found_from_anywhere(bin_dir, cwd):
    preset = ("classify", "--config", "configs/demo/classify.yaml", "--print_config")
    done = run(bin_dir / "oaa", *preset, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    assert "backbone: tf_efficientnet_lite0" in done.stdout
    done = run(bin_dir / "oaa", "reproduce", "--table", "none", "--data.root", cwd, cwd=cwd)
    assert done.returncode == 2
    assert "there is no table none, expected one of figure11, " in done.stderr


def test_compiled_code_page_and_public_names(bin_dir, cwd):
    log_metrics(cwd / "run", "classify", {"cam/recall": 0.25}, {"cam/recall": 0.5})
    code = (
        "import dist_oaa, sys\n"
        "from dist_oaa import OnlineCAM\n"
        "from dist_oaa.attention import native\n"
        "print(dist_oaa.__file__)\n"
        "print(native.problem() or 'compiled')\n"
        "sys.argv[1:] = ['view', 'run', '--no-open']\n"
        "from dist_oaa.cli import main\n"
        "main()\n"
    )
    done = run(bin_dir / "python", "-c", code, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    where, compiled, report = done.stdout.splitlines()
    assert Path(where).is_relative_to(bin_dir.parent)
    assert (compiled, report) == ("compiled", "report: run/report.html")
    assert "recall, CAM" in (cwd / "run" / "report.html").read_text()


USER = """\
import torch
import dist_oaa
from dist_oaa import AttentionAccumulator, OnlineCAM

model = OnlineCAM(torch.nn.Linear(2, 2))
reveal_type(model)
accumulator = AttentionAccumulator.create("store", image_ids=["a"], labels=[[1]])
accumulator.update(1, 2, 3)
dist_oaa.OnlineCam
"""


@pytest.mark.skipif(
    importlib.util.find_spec("basedpyright") is None,
    reason="needs basedpyright: pip install 'dist_oaa[dev]'",
)
def test_a_user_s_type_checker_sees_the_public_api(bin_dir, cwd):
    (cwd / "user.py").write_text(USER)
    (cwd / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    checker = Path(sys.executable).with_name("basedpyright")
    done = run(checker, "--pythonpath", bin_dir / "python", "user.py", cwd=cwd)
    found = [line for line in done.stdout.splitlines() if "user.py:" in line]
    assert 'information: Type of "model" is "OnlineCAM"' in found[0]
    wrong = {int(line.split(":")[1]) for line in found[1:] if "error" in line}
    assert wrong == {8, 9}, done.stdout
