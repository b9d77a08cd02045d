"""The package's own settings files are found by name from any folder, and never hide others."""

import sysconfig
from pathlib import Path

import pytest

import dist_oaa
from dist_oaa.cli import main
from dist_oaa.config import presets
from dist_oaa.config.presets import find_preset, with_presets
from processes import REPOSITORY

NAME = "configs/demo/classify.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("form", [["--config", NAME], [f"--config={NAME}"]])
def test_a_name_from_the_documentation(form):
    (*_, last) = with_presets(["--seed", "1", *form])
    assert Path(last.removeprefix("--config=")) == REPOSITORY / NAME


def test_a_file_of_ones_own_comes_first(elsewhere):
    (elsewhere / "configs/demo").mkdir(parents=True)
    (elsewhere / NAME).write_text("seed: 5\n")
    assert with_presets(["--config", NAME]) == ["--config", NAME]


@pytest.mark.parametrize(
    "argv",
    [
        ["--config", "configs/demo/none.yaml"],
        ["--config", "demo/classify.yaml"],
        ["--config", "configs/../setup.py"],
        ["--config", "/configs/demo/classify.yaml"],
        ["--config"],
        ["--data.root", NAME],
        [],
    ],
)
def test_what_is_no_preset_stays_as_it_is(argv):
    assert with_presets(argv) == argv


@pytest.mark.parametrize("scheme", ["environment", "user", "target"])
def test_wherever_pip_puts_them(elsewhere, monkeypatch, scheme):
    package = elsewhere / "site" / "dist_oaa"
    monkeypatch.setattr(dist_oaa, "__file__", str(package / "__init__.py"))
    paths = {"environment": elsewhere / "env", "user": elsewhere / "home"}
    user = sysconfig.get_preferred_scheme("user")

    def get_path(name: str, of: str = "") -> str:
        assert name == "data"
        return str(paths["user" if of == user else "environment"])

    monkeypatch.setattr(presets.sysconfig, "get_path", get_path)
    assert find_preset(NAME) is None
    root = paths.get(scheme, elsewhere / "site")
    there = root / "share" / "dist_oaa" / NAME
    there.parent.mkdir(parents=True)
    there.write_text("seed: 1\n")
    assert find_preset(NAME) == there


def test_the_command_line_takes_them(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["classify", "--config", NAME, "--print_config"])
    assert ended.value.code == 0
    assert "root: demo-data" in capsys.readouterr().out
