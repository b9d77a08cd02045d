"""`oaa store`: dispatch, help and mistakes on the command line."""

import numpy as np
import pytest
from PIL import Image

from dist_oaa.cli import main

COMMANDS = ("info", "verify", "export", "import", "diff")


def oaa(monkeypatch, capsys, *argv) -> tuple[int, str, str]:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        main(["store", *map(str, argv)])
    said = capsys.readouterr()
    return int(caught.value.code or 0), said.out, said.err


def test_overview(monkeypatch, capsys):
    code, out, _ = oaa(monkeypatch, capsys, "--help")
    assert code == 0
    assert all(f"  {name} " in out for name in COMMANDS)
    assert oaa(monkeypatch, capsys)[0] == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns(monkeypatch, capsys, command):
    code, out, _ = oaa(monkeypatch, capsys, command, "--help")
    assert code == 0
    assert f"usage: oaa store {command}" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["imprt"], "unknown command oaa store imprt; did you mean import?"),
        (["info"], "required: store"),
        (["info", "nowhere"], "nowhere is no store: nowhere/manifest.json is missing"),
        (["export", "a", "b", "--fromat", "png"], "the nearest valid key is format"),
        (
            ["export", "a", "b", "--format", "jpg"],
            "format is 'jpg' in the command line, expected one of 'png', 'npy'",
        ),
        (
            ["import", "a", "b", "--map_size", "x"],
            "map_size is 'x' in the command line, expected a value of type int",
        ),
    ],
)
def test_mistakes(monkeypatch, capsys, tmp_path, argv, sentence):
    monkeypatch.chdir(tmp_path)
    code, out, err = oaa(monkeypatch, capsys, *argv)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.startswith("oaa: error: ")
    assert err.count("\n") == 1


def test_every_command_in_turn(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for n in range(4):
        values = np.random.default_rng(n).integers(0, 256, (41, 41), dtype=np.uint8)
        (tmp_path / "maps/sub").mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(tmp_path / f"maps/sub/x_{n % 2}_{n // 2}.png")
    (tmp_path / "maps/classes.txt").write_text("cat\ndog\n")
    assert oaa(monkeypatch, capsys, "import", "maps", "one", "--shards", "3")[0] == 0
    assert oaa(monkeypatch, capsys, "verify", "one")[0] == 0
    assert "4 (100.0 %)" in oaa(monkeypatch, capsys, "info", "one")[1]
    assert oaa(monkeypatch, capsys, "export", "one", "out")[0] == 0
    assert oaa(monkeypatch, capsys, "import", "out", "two")[0] == 0
    assert oaa(monkeypatch, capsys, "diff", "one", "two")[0] == 0
    assert oaa(monkeypatch, capsys, "import", "out", "three", "--map_size", "20")[0] == 0
    assert oaa(monkeypatch, capsys, "diff", "one", "three")[0] == 1
    path = tmp_path / "two/shard-0000/data.mdb"
    path.write_bytes(path.read_bytes()[:5000])
    code, out, err = oaa(monkeypatch, capsys, "verify", "two")
    assert (code, err.count("\n")) == (2, 1)
    assert "shard-0000" in out
    assert "1 of the 24 shards of two are damaged" in err
