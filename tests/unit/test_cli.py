"""The command line as a user meets it: exit codes, one sentence, no traceback."""

import errno
import importlib.util
import subprocess
import sys

import pytest

from dist_oaa import __version__, cli
from dist_oaa.config.errors import Interrupted, RunError, UserError


def run(capsys, *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(argv))
    out, err = capsys.readouterr()
    return caught.value.code, out, err


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_command(capsys, flag):
    code, out, err = run(capsys, flag)
    assert (code, err) == (0, "")
    for command, (_, sentence) in cli.COMMANDS.items():
        assert command in out
        assert sentence in out
    assert "torchrun" in out


def test_without_a_command_the_overview_is_shown_as_a_mistake(capsys):
    code, out, _ = run(capsys)
    assert code == 2
    assert out.startswith("usage: oaa")


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(capsys, flag):
    assert run(capsys, flag) == (0, f"dist_oaa {__version__}\n", "")


@pytest.mark.parametrize(
    ("word", "hint"), [("clasify", "did you mean classify?"), ("zzqqy", "expected pipeline")]
)
def test_an_unknown_command(capsys, word, hint):
    code, out, err = run(capsys, word)
    assert (code, out) == (2, "")
    assert err.startswith(f"oaa: error: unknown command oaa {word};")
    assert hint in err
    assert err.count("\n") == 1


def test_every_command_has_its_module():
    for module, _ in cli.COMMANDS.values():
        assert importlib.util.find_spec(module) is not None, module


def raising(error: BaseException):
    class Stage:
        @staticmethod
        def main(prog: str, argv: list[str]) -> int:
            assert (prog, argv) == ("oaa classify", ["--seed", "1"])
            raise error

    return lambda _: Stage


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("the key is wrong"), 2),
        (RunError("the loss is not finite"), 1),
        (Interrupted("stopped by SIGTERM"), 75),
    ],
)
def test_exit_codes_of_the_ways_to_end_early(capsys, monkeypatch, error, code):
    monkeypatch.setattr(cli.importlib, "import_module", raising(error))
    assert run(capsys, "classify", "--seed", "1") == (code, "", f"oaa: error: {error}\n")
    monkeypatch.setenv("RANK", "1")  # the first rank speaks for all
    assert run(capsys, "classify", "--seed", "1") == (code, "", "")


def test_a_full_disk_is_a_sentence(capsys, monkeypatch):
    error = OSError(errno.ENOSPC, "No space left on device", "/data/x")
    monkeypatch.setattr(cli.importlib, "import_module", raising(error))
    code, _, err = run(capsys, "classify", "--seed", "1")
    assert code == 2
    assert err == "oaa: error: /data/x could not be written: No space left on device\n"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli.importlib, "import_module", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["classify", "--seed", "1"])


@pytest.mark.parametrize("returned", [None, 0, 2])
def test_a_stage_may_say_how_it_ended(capsys, monkeypatch, returned):
    class Stage:
        @staticmethod
        def main(prog: str, argv: list[str]) -> int | None:
            print(prog, argv)
            return returned

    monkeypatch.setattr(cli.importlib, "import_module", lambda _: Stage)
    code, out, _ = run(capsys, "data", "demo", "OUT")
    assert code == (returned or 0)
    assert out == "oaa data ['demo', 'OUT']\n"


def process(*argv: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "dist_oaa", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_the_overview_does_not_load_torch():
    check = "import sys, dist_oaa.cli as c; c.usage(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=60, check=False).returncode == 0


def test_as_a_module():
    done = process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"dist_oaa {__version__}\n", "")
    done = process("clasify")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_mistake_in_a_stage_is_one_line(tmp_path):
    done = process("classify", "--run_dir", str(tmp_path / "run"), "--optim.lrr", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "oaa: error: unknown key optim.lrr in the command line; the nearest valid key is optim.lr\n"
    )
    assert not (tmp_path / "run").exists()
