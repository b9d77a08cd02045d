"""`oaa data`: the dispatcher; the functions behind it have tests of their own."""

import pytest

from dist_oaa.cli import run
from dist_oaa.config.errors import UserError
from dist_oaa.stages.data import COMMANDS


def test_generate_then_check_then_damage(tmp_path, capsys):
    out = tmp_path / "scenes"
    assert run(["data", "demo", str(out), "--images", "6", "--size", "64"]) == 0
    assert "6 scenes (4 train, 2 val) of 6 classes" in capsys.readouterr().out
    assert run(["data", "check", str(out)]) == 0
    assert "No problems found" in capsys.readouterr().out
    victim = next((out / "JPEGImages").iterdir())
    victim.write_bytes(b"")
    assert run(["data", "check", str(out), "--split", "trainval"]) == 2
    assert victim.name in capsys.readouterr().out


def test_a_root_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["data", "check", "nowhere"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().out


def test_overview_names_every_command(capsys):
    assert run(["data", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["data"], "oaa data needs a command, expected one of check, demo, voc2012, export"),
        (["data", "chekc"], "unknown command oaa data chekc; did you mean check?"),
        (["data", "demo", "x", "--imges", "3"], "the nearest valid key is images"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, argv, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        run(argv)
    assert list(tmp_path.iterdir()) == []
