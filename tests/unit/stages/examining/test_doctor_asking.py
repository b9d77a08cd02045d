"""Processes that answer, die or hang: one answer is lost, and nothing stays behind."""

import os
import sys
import time
from pathlib import Path

import pytest

import processes
from dist_oaa.stages.examining import answering, asking
from dist_oaa.stages.examining.asking import Answer, ask, finish, start

SCRIPT = """
import json, os, signal, subprocess, sys, time
for question in map(json.loads, sys.argv[1:]):
    if question[0] == "die":
        print("last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if question[0] == "leave":
        sys.exit(0)
    if question[0] == "hang":
        child = subprocess.Popen(["sleep", "60"])
        open(question[1], "w").write(f"{os.getpid()} {child.pid}")
        print('{"value": ', end="", flush=True)
        time.sleep(60)
    print(json.dumps({"value": question[0], "seconds": 0.5}), flush=True)
"""


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    (tmp_path / "scripted_answers.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(asking, "ANSWERING", "scripted_answers")


@pytest.mark.usefixtures("scripted")
def test_who_dies_loses_its_own_answer():
    found = ask([("a",), ("die",), ("b",), ("leave",), ("c",)], limit_s=30)
    assert found[0] == Answer("a", seconds=0.5)
    assert found[1] == Answer(error="killed by SIGSEGV: last words")
    assert [found[2].value, found[4].value] == ["b", "c"]
    assert found[3] == Answer(error="its process ended without an answer")


@pytest.mark.usefixtures("scripted")
def test_who_hangs_is_killed_with_its_children(tmp_path):
    start_s, note = time.monotonic(), tmp_path / "pids"
    found = ask([("a",), ("hang", str(note)), ("b",)], limit_s=1.5)
    assert [answer.value for answer in found] == ["a", None, "b"]
    assert found[1].error == "no answer within 2 s"
    assert time.monotonic() - start_s < 20
    processes.wait_until_gone([int(pid) for pid in note.read_text().split()], 5)


@pytest.mark.usefixtures("scripted")
def test_all_who_hang_share_the_time(tmp_path):
    start_s = time.monotonic()
    found = ask([("hang", str(tmp_path / str(n))) for n in range(9)], limit_s=0.5)
    assert time.monotonic() - start_s < 10
    assert len(found) == 9
    assert found[-1].error.startswith("not tried")


def test_a_process_that_cannot_be_started(monkeypatch):
    monkeypatch.setattr(asking.sys, "executable", "/nowhere/python")
    assert ask([("a",)], 5)[0].error == "no process could be started: No such file or directory"


def test_an_exception_while_waiting_kills(monkeypatch):
    started = [start([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]

    def interrupted(*_args, **_kwargs):
        raise SystemExit(143)

    monkeypatch.setattr(started[0], "communicate", interrupted)
    with pytest.raises(SystemExit):
        finish(started, 30)
    assert [process.poll() for process in started] == [-9, -9]
    assert all(process.stdout.closed and process.stderr.closed for process in started)


def test_nothing_stays_open(monkeypatch):
    before = len(os.listdir("/proc/self/fd"))
    assert finish([start([sys.executable, "-c", "print(1)"])], 30)[0].output == "1\n"
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_answers_of_the_real_process(tmp_path):
    found = ask([("import", "lmdb"), ("import", "no_such"), ("nonsense",), ("import", "json")], 60)
    assert found[0].value.count(".") >= 1
    assert found[1].error == "ModuleNotFoundError: No module named 'no_such'"
    assert found[2].error.startswith("KeyError")
    assert not found[3].error


def test_every_question_has_its_function():
    for module, function in answering.QUESTIONS.values():
        path = Path(answering.__file__).with_name(module.rpartition(".")[2] + ".py")
        assert f"def {function}(" in path.read_text()
