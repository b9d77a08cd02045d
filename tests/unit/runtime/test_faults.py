"""Fault points: what OAA_FAULT asks for happens there, once, and nothing else happens."""

import errno
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dist_oaa.config.errors import UserError
from dist_oaa.runtime import faults
from dist_oaa.runtime.faults import POINTS, arm_faults, fault_point, read_faults

PACKAGE = Path(faults.__file__).parents[1]
POINT = "store.commit.before"


@pytest.fixture
def asked(monkeypatch):
    """Sets OAA_FAULT for the rest of a test."""

    def ask(text: str, rank: str = "0") -> None:
        monkeypatch.setenv("OAA_FAULT", text)
        monkeypatch.setenv("RANK", rank)
        arm_faults()

    yield ask
    monkeypatch.delenv("OAA_FAULT", raising=False)
    arm_faults()


def strikes(passes: int, point: str = POINT) -> list[int]:
    """At which of so many passes an OSError is raised."""
    struck = []
    for number in range(1, passes + 1):
        try:
            fault_point(point)
        except OSError:
            struck.append(number)
    return struck


def test_the_list_names_exactly_the_points_of_the_program():
    called = [
        name
        for path in PACKAGE.rglob("*.py")
        if path.name != "faults.py"
        for name in re.findall(r'fault_point\("([^"]+)"\)', path.read_text(encoding="utf-8"))
    ]
    assert sorted(called) == sorted(POINTS)


@pytest.mark.parametrize(
    ("text", "rank", "struck"),
    [
        (f"{POINT}=eio", "0", [1]),
        (f"{POINT}=eio,hit=3", "5", [3]),
        (f"{POINT}=eio,rank=1,hit=2", "1", [2]),
        (f"{POINT}=eio,rank=1", "0", []),
        (f"{POINT}=eio,hit=2; {POINT}=enospc,hit=4;", "0", [2, 4]),
        ("store.commit.after=eio", "0", []),
        ("", "0", []),
    ],
)
def test_strikes_one_rank_at_one_pass(asked, text, rank, struck):
    asked(text, rank)
    assert strikes(5) == struck


def test_errors_are_those_of_a_disk(asked):
    asked(f"{POINT}=enospc;store.shard=eio")
    with pytest.raises(OSError, match=POINT) as full:
        fault_point(POINT)
    with pytest.raises(OSError) as failing:
        fault_point("store.shard")
    assert (full.value.errno, failing.value.errno) == (errno.ENOSPC, errno.EIO)


def test_once_spares_those_who_come_later(asked, tmp_path):
    text = f"{POINT}=eio,hit=2,once={tmp_path / 'struck'}"
    asked(text)
    assert strikes(3) == [2]
    asked(text)  # as in a process that is started again
    assert strikes(3) == []


def test_sleeps(asked):
    asked(f"{POINT}=sleep:0.2")
    start = time.monotonic()
    fault_point(POINT)
    assert time.monotonic() - start >= 0.2
    start = time.monotonic()
    fault_point(POINT)
    assert time.monotonic() - start < 0.2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("store.comit=kill", "'store.comit' is no fault point, expected one of data.read"),
        (POINT, "no fault point"),
        (f"{POINT}=explode", "'explode' is no action, expected one of kill, term"),
        (f"{POINT}=sleep", "expected sleep:SECONDS"),
        (f"{POINT}=sleep:nan", "expected sleep:SECONDS"),
        (f"{POINT}=sleep:-1", "expected sleep:SECONDS"),
        (f"{POINT}=exit:300", "expected sleep:SECONDS, exit:CODE"),
        (f"{POINT}=exit:x", "expected sleep:SECONDS, exit:CODE"),
        (f"{POINT}=kill:9", "without a number"),
        (f"{POINT}=kill,rank=one", "'rank=one' is not rank=R"),
        (f"{POINT}=kill,hit=-1", "'hit=-1' is not"),
        (f"{POINT}=kill,hit=0", "counted from 1"),
        (f"{POINT}=kill,once=", "'once=' is not"),
        (f"{POINT}=kill,twice", "'twice' is not"),
    ],
)
def test_a_mistake_is_one_sentence(text, problem):
    with pytest.raises(UserError, match="OAA_FAULT=") as raised:
        read_faults(text)
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


PROGRAM = f"from dist_oaa.runtime.faults import fault_point; fault_point({POINT!r}); print('alive')"


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("kill", -signal.SIGKILL),
        ("term", -signal.SIGTERM),
        ("abort", -signal.SIGABRT),
        ("exit:7", 7),
    ],
)
def test_a_process_ends_where_it_is_told_to(action, code):
    """The variable counts from the import on; no command has to read it first."""
    env = {"OAA_FAULT": f"{POINT}={action}", "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (code, "")


def test_a_stopped_process_can_be_continued():
    env = {"OAA_FAULT": f"{POINT}=stop", "PYTHONPATH": str(PACKAGE.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            state, deadline = "", time.monotonic() + 20
            while state != "T" and time.monotonic() < deadline:
                stat = Path(f"/proc/{process.pid}/stat").read_text()
                state = stat.rsplit(")", 1)[1].split()[0]
                time.sleep(0.01)
            assert state == "T"
            process.send_signal(signal.SIGCONT)
            assert process.communicate(timeout=20)[0] == "alive\n"
        finally:
            process.kill()


def test_a_run_begins_with_reading_it(monkeypatch):
    from dist_oaa.config.run import RuntimeConfig
    from dist_oaa.runtime.distributed import open_world

    monkeypatch.setenv("OAA_FAULT", "here=kill")
    with (
        pytest.raises(UserError, match="'here' is no fault point"),
        open_world(RuntimeConfig(device="cpu")),
    ):
        pass
    monkeypatch.delenv("OAA_FAULT")
    arm_faults()
