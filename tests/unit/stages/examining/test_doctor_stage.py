"""The command with made-up answers: checks that fail, exit codes, files."""

import json
import os
import signal
import subprocess
import sys

import pytest

from dist_oaa.config.errors import UserError
from dist_oaa.stages import doctor
from dist_oaa.stages.examining import disk, network, system, versions
from dist_oaa.stages.examining.asking import Answer
from dist_oaa.stages.examining.finding import Finding

NO_TORCH = Answer(error="ImportError: libcudart.so.13: cannot open shared object file")


@pytest.fixture(autouse=True)
def answers(monkeypatch) -> dict[str, Answer]:
    """A sound machine without a GPU; the self test is not to run unless a test says so."""
    cuda = {
        "built": "13.0", "available": False, "compiled_for": [], "gpus": [], "driver": "",
        "in_machine": 0, "said": [],
    }  # fmt: skip
    triton = {"interpreted": False, "c_compiler": "gcc", "target": "sm_80", "error": ""}
    known = {name: Answer("1.0") for name in versions.IMPORTED}
    known |= {"cuda": Answer(cuda), "native": Answer(""), "compilation": Answer(triton)}
    known["backends"] = Answer({"gloo": True, "nccl": ""})
    monkeypatch.setattr(doctor, "ask", lambda questions, _: [known[n] for n in known_order(known)])
    monkeypatch.setattr(doctor, "self_test", lambda *_: pytest.fail("was to be left out"))
    # The machine of the tests may be short of anything.
    monkeypatch.setattr(disk, "space", lambda _: Finding("free space", "enough"))
    monkeypatch.setattr(disk, "shared_memory", lambda: Finding("shared memory", "enough"))
    monkeypatch.setattr(versions, "requirements", lambda: Finding("requirements", "met"))
    monkeypatch.setattr(system, "file_handles", lambda: Finding("file handles", "enough"))
    return known


def known_order(known) -> list[str]:
    return [*versions.IMPORTED, "cuda", "backends", "native", "compilation"]


def run(tmp_path, *argv: str) -> tuple[int, dict]:
    out = tmp_path / "new" / "all.json"
    code = doctor.main(
        "oaa doctor",
        ["--run_dir", str(tmp_path), "--self_test", "false", "--json", str(out), *argv],
    )
    return code, json.loads(out.read_text())


def states(written: dict) -> dict[str, str]:
    return {f["name"]: f["state"] for findings in written["areas"].values() for f in findings}


def test_a_sound_machine(tmp_path, capsys):
    code, written = run(tmp_path)
    assert (code, written["fit"]) == (0, True)
    assert list(written["areas"]) == ["versions", "devices", "disk", "network", "system"]
    assert "problem" not in capsys.readouterr().out.replace("no problems", "")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_questions_are_asked_in_the_order_of_the_answers(monkeypatch):
    asked = []
    monkeypatch.setattr(doctor, "ask", lambda q, _: asked.extend(q) or [Answer(x[-1]) for x in q])
    found = doctor.ask_torch()
    assert {name: answer.value for name, answer in found.items()} == {
        **versions.IMPORTED,
        "cuda": "cuda",
        "backends": "backends",
        "native": "native",
        "compilation": "triton",
    }
    assert asked[0] == ("import", "torch")


def test_a_machine_without_torch(tmp_path, answers):
    for name in ("torch", "torchvision", "cuda", "backends", "native", "compilation"):
        answers[name] = NO_TORCH
    code, written = run(tmp_path)
    assert code == 1
    found = states(written)
    assert {found[n] for n in ("torch", "torchvision", "GPU", "backends")} == {"problem"}
    assert found["lmdb"] == "ok"


@pytest.mark.parametrize(
    ("module", "check", "name"),
    [
        (disk, "space", "free space"),
        (disk, "shared_memory", "shared memory"),
        (network, "host_name", "host name"),
        (versions, "read", "other packages"),
        (system, "variables", "variables"),
    ],
)
def test_a_check_that_crashes(tmp_path, monkeypatch, capsys, module, check, name):
    def crash(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, check, crash)
    code, written = run(tmp_path)
    assert code == 1
    assert states(written)[name] == "problem"
    assert "this check failed" in capsys.readouterr().out
    assert len(written["areas"]["system"]) >= 1


def test_a_dead_file_server(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "LOOKING_S", 0.1)
    monkeypatch.setattr(disk, "file_system", lambda _: system.time.sleep(5))
    code, written = run(tmp_path)
    assert (code, states(written)["file system"]) == (1, "problem")


def test_the_self_test_runs_unless_left_out(tmp_path, monkeypatch):
    said = []

    def tried(run_dir, say):
        say(f"{run_dir.name}")
        said.append(run_dir)
        return [Finding("store", "failed", "problem", "Mend it.", 1.0)]

    monkeypatch.setattr(doctor, "self_test", tried)
    code, written = run(tmp_path, "--self_test", "true")
    assert (code, said) == (1, [tmp_path])
    assert written["areas"]["self test"][0]["seconds"] == 1.0


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"json .* cannot be written: "):
        doctor.main("oaa doctor", ["--self_test=false", "--json", str(tmp_path / "file" / "x")])


def test_signals_end_it_as_exceptions_do():
    before = signal.getsignal(signal.SIGTERM)

    def wait() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        system.time.sleep(5)

    with doctor.ended_by_signals(), pytest.raises(SystemExit) as caught:
        wait()
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_it_imports_nothing_that_may_be_broken():
    check = (
        "import sys, dist_oaa.stages.doctor\n"
        "broken = {'torch', 'numpy', 'lmdb', 'cv2', 'triton', 'packaging'} & set(sys.modules)\n"
        "sys.exit(str(broken) if broken else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
