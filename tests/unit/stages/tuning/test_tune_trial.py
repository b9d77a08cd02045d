"""A trial as Ray sees it, with scripts in place of runs."""

import dataclasses
import subprocess
import time

import pytest

from dist_oaa.stages.launching import records
from dist_oaa.stages.tuning.sweep import plan_trial
from processes import descendants, is_running, wait_until_gone
from sweeps import a_sweep, scripted, write_run


@pytest.fixture
def sweep(tmp_path):
    """The sweep of all these tests."""
    return dataclasses.replace(a_sweep(tmp_path)[0], grace_s=1.0)


@pytest.fixture
def run(sweep):
    """Its first trial."""
    return plan_trial(sweep, {"drop.delta": 0.3, "drop.beta": 0.25}, 0)


def reports(trial, seconds=30.0):
    """All reports that say something new, up to the last one."""
    found, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        report = trial.look(0.05)
        if not found or report["epoch"] > found[-1]["epoch"] or report["state"] != "running":
            found.append(report)
        if report["state"] != "running":
            return found
    raise AssertionError(f"no end after {seconds} s: {found}")


def test_every_epoch_is_reported_once_and_then_the_end(sweep, run):
    script = "[epoch(n, 0.1 * n) for n in range(3)]"
    found = reports(scripted(sweep, run, script))
    numbers = [(r["epoch"], r["state"]) for r in found if r["epoch"]]
    assert numbers == [(1, "running"), (2, "running"), (3, "running"), (3, "finished")]
    assert [r["cumulative/seed_miou"] for r in found[-3:]] == [0.1, 0.2, 0.2]
    assert records.load_record(run.folder).finished


def test_a_finished_run_is_told_again_and_not_run(sweep, run):
    write_run(run, [0.1, 0.2, 0.3], finished=True)
    found = reports(scripted(sweep, run, "raise SystemExit('run again')"))
    assert [r["epoch"] for r in found] == [1, 2, 3, 3]
    assert found[-1]["state"] == "finished"
    assert found[-1]["cumulative/seed_miou"] == 0.3


def test_what_was_stopped_early_stays_stopped(sweep, run):
    write_run(run, [0.1, 0.2], stopped_epoch=2)
    found = reports(scripted(sweep, run, "raise SystemExit('run again')"))
    assert [(r["epoch"], r["state"]) for r in found[-2:]] == [(2, "running"), (2, "stopped")]


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(sweep, run):
    asked = []
    write_run(run, [0.1])
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "latest.json").write_text("{}")
    found = reports(scripted(sweep, run, "epoch(1, 0.2); epoch(2, 0.3)", asked))
    assert asked == [True]
    assert [r["epoch"] for r in found] == [1, 2, 3, 3]


def test_a_failure_is_told_in_the_runs_own_words_and_not_tried_again(sweep, run):
    asked = []
    script = "print('oaa: error: data.root x does not exist', file=sys.stderr); sys.exit(2)"
    last = reports(scripted(sweep, run, script, asked))[-1]
    assert last["state"] == "failed"
    assert last["problem"] == "data.root x does not exist"
    assert asked == [False]
    assert records.load_record(run.folder).problem == "data.root x does not exist"


def test_a_crash_shows_its_last_line(sweep, run):
    last = reports(scripted(sweep, run, "raise ArithmeticError('lost count')"))[-1]
    assert last["problem"] == "ArithmeticError: lost count"
    assert any("Traceback" in line for line in last["lines"])


def test_a_killed_run_goes_on_once_and_then_fails(sweep, run):
    asked = []
    script = "epoch(0, 0.1) if not Path('metrics.jsonl').exists() else None\n"
    found = reports(scripted(sweep, run, script + "os.kill(os.getpid(), signal.SIGKILL)", asked))
    assert asked == [False, True]
    assert found[-1]["state"] == "failed"
    assert found[-1]["epoch"] == 1


def test_stopping_ends_all_processes_within_the_grace(sweep, run):
    # A child in a session of its own, as torchrun's workers are, that does not listen.
    script = """
import subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", ignore], start_new_session=True)
epoch(0, 0.1)
time.sleep(60)
"""
    trial = scripted(sweep, run, script)
    while trial.look(0.05)["epoch"] == 0:
        pass
    pid = trial._attempt.process.pid
    family = [pid, *descendants(pid)]
    assert len(family) == 2
    began = time.monotonic()
    trial.stop()
    wait_until_gone(family, seconds=1)
    assert time.monotonic() - began < sweep.grace_s + 2
    assert records.load_record(run.folder).seconds > 0


def test_a_run_that_listens_may_write_its_checkpoint(sweep, run):
    script = """
def listen(number, frame):
    epoch(0, 0.7)
    sys.exit(75)
signal.signal(signal.SIGTERM, listen)
print("ready", flush=True)
time.sleep(60)
"""
    trial = scripted(sweep, run, script)
    while trial.look(0.05)["line"] != "ready":
        pass
    trial.stop()
    assert records.can_resume(run.folder)
    assert records.closed_epochs(run.folder, "classify")[0]["cumulative/seed_miou"] == 0.7


def test_two_trials_of_the_same_settings_never_share_a_run(sweep, run):
    first = scripted(sweep, run, "time.sleep(0.5); [epoch(n, 0.5) for n in range(3)]")
    asked = []
    second = scripted(sweep, run, "raise SystemExit('ran beside the first')", asked)
    first.look(0.1)
    assert second.look(0.2)["state"] == "running"
    reports(first)
    found = reports(second)
    assert asked == []
    assert found[-1]["state"] == "finished"
    assert found[-1]["cumulative/seed_miou"] == 0.5


def test_the_lock_ends_with_its_process(sweep, run, tmp_path):
    lock = tmp_path / "trials" / f".{run.identity}.lock"
    lock.parent.mkdir(parents=True)
    hold = (
        f"import fcntl, time; f = open({str(lock)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(["python3", "-c", hold], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        trial = scripted(sweep, run, "[epoch(n, 0.5) for n in range(3)]")
        assert trial.look(0.2) | {"line": ""} == {"epoch": 0, "state": "running", "line": ""}
        holder.kill()
    assert not is_running(holder.pid)
    assert reports(trial)[-1]["state"] == "finished"
