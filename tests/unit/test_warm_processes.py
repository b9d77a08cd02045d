"""Processes that are forked off a warm one cannot be told from fresh ones by what they do."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from processes import (
    REPOSITORY,
    Running,
    alone,
    children,
    environment,
    is_running,
    run,
    torchrun,
    wait_until_gone,
)
from warm_processes import Process, can_be_warm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PROBE = str(REPOSITORY / "tests" / "warm_probe.py")
BOTH = pytest.mark.parametrize("fresh", [False, True], ids=["warm", "fresh"])


def probe(action: str, log: Path, fresh: bool = False, **variables: str) -> tuple[int, str]:
    return run([sys.executable, PROBE, action], log, 60, fresh, **variables)


def test_it_sees_what_a_fresh_process_sees(tmp_path):
    seen = []
    for fresh in (False, True):
        code, text = probe("print", tmp_path / "log", fresh, OAA_WORD="some text: öß")
        assert code == 0, text
        seen.append(json.loads(text))
    assert seen[0] == seen[1]
    assert seen[0]["parent"] == os.getpid()
    assert seen[0]["environment"]["OAA_WORD"] == "some text: öß"
    assert seen[0]["leads its session"]


@BOTH
@pytest.mark.parametrize(
    ("action", "code", "said"),
    [
        ("exit:0", 0, "at the end"),
        ("exit:75", 75, "at the end"),
        ("raise", 1, "RuntimeError: of the probe"),
        ("kill", -signal.SIGKILL, ""),
        ("leave", 0, "the thread"),
    ],
)
def test_it_ends_as_a_fresh_process_ends(tmp_path, action, code, said, fresh):
    assert probe(action, tmp_path / "log", fresh)[0] == code
    assert said in (tmp_path / "log").read_text()


@BOTH
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_it(tmp_path, number, fresh):
    place = tmp_path / "pid"
    started = Running([sys.executable, PROBE, f"wait:{place}"], tmp_path / "log", fresh)
    started.wait_until(lambda: place.exists() and place.read_text() != "", 30)
    assert int(place.read_text()) == started.process.pid
    assert started.process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        started.process.wait(0.05)
    os.killpg(started.process.pid, number)
    assert started.wait(20) == -number
    assert ("KeyboardInterrupt" in started.text()) == (number == signal.SIGINT)


@BOTH
def test_ranks_of_torchrun(tmp_path, fresh):
    """Place, environment, parent and command line of each worker are those that torchrun gives."""
    started = Running(torchrun(2, PROBE, "print"), tmp_path / "log", fresh)
    assert started.wait(60) == 0, started.text()
    ranks = [json.loads(x) for x in re.findall(r"^\{.*\}$", started.text(), re.MULTILINE)]
    ranks.sort(key=lambda seen: seen["environment"]["RANK"])
    assert [seen["environment"]["RANK"] for seen in ranks] == ["0", "1"]
    for seen in ranks:
        assert seen["parent"] == started.process.pid
        assert seen["leads its session"]
        assert seen["command"] == [sys.executable, "-u", PROBE, "print"]
        assert seen["argv"] == [PROBE, "print"]
        assert seen["folder"] == str(REPOSITORY)
        assert seen["files"] == [0, 1, 2]
        assert seen["environment"]["WORLD_SIZE"] == seen["environment"]["LOCAL_WORLD_SIZE"] == "2"
        assert seen["environment"]["TORCHELASTIC_RESTART_COUNT"] == "0"


def test_workers_are_the_children_of_torchrun_and_fail_it(tmp_path):
    place = tmp_path / "pid"
    started = Running(torchrun(2, PROBE, f"wait:{place}"), tmp_path / "log")
    started.wait_until(lambda: place.exists() and place.read_text() != "", 30)
    workers = children(started.process.pid)
    assert int(place.read_text()) in workers
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    assert started.wait(60) == 1, started.text()
    assert "Signal 9 (SIGKILL)" in started.text()
    assert not any(map(is_running, workers))


def test_torchrun_that_begins_no_worker_leaves_none(tmp_path):
    started = Running(torchrun(2, "--no-such-flag", PROBE, "print"), tmp_path / "log")
    assert started.wait(60) == 2, started.text()
    assert "no-such-flag" in started.text()
    wait_until_gone(session(started.process.pid), 5)


def session(leader: int) -> list[int]:
    """Ids of the processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[3]) == leader:
                found.append(int(path.parent.name))
    return found


def test_restarted_workers_are_fresh(tmp_path):
    line = torchrun(1, "--max-restarts", "1", PROBE, "raise")
    code, text = run(line, tmp_path / "log", 60)
    assert code == 1
    assert text.count("RuntimeError: of the probe") == 2


@BOTH
def test_the_command(tmp_path, fresh):
    code, text = run(alone("--version"), tmp_path / "log", 60, fresh)
    assert (code, text.split()[0]) == (0, "dist_oaa")
    code, text = run(alone("classify", "--optim.epoch", "3"), tmp_path / "log", 60, fresh)
    assert (code, text.count("\n")) == (2, 1), text
    assert text.startswith("oaa: error: unknown key optim.epoch")


def test_what_only_a_fresh_process_can_do():
    env = environment()
    assert can_be_warm(alone("classify"), env, env)
    assert can_be_warm([sys.executable, "-u", "script.py"], env, env)
    assert can_be_warm(alone("x"), env | {"OAA_FAULT": "x", "TORCHELASTIC_RUN_ID": "y"}, env)
    assert not can_be_warm([sys.executable, "-c", "pass"], env, env)
    assert not can_be_warm([sys.executable, "-m", "pip"], env, env)
    assert not can_be_warm(["bash", "script.py"], env, env)
    assert not can_be_warm(["/usr/bin/python3", "script.py"], env, env)
    for name in ("PYTHONPATH", "OMP_NUM_THREADS", "LD_PRELOAD", "TORCH_LOGS", "TRITON_INTERPRET"):
        assert not can_be_warm(alone("classify"), env | {name: "2"}, env), name


def test_it_was_warm_after_all(tmp_path):
    """The tests above compare something: without the variable, here, processes are forked."""
    if os.environ.get("OAA_TEST_FRESH"):
        pytest.skip("OAA_TEST_FRESH asks for fresh processes")
    started = Running(alone("--version"), tmp_path / "log")
    assert isinstance(started.process, Process)
    assert started.wait(30) == 0
