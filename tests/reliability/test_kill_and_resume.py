"""SIGKILL at random points of a two-rank run: the resumed run equals the uninterrupted one."""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from processes import Running, children, descendants, run, torchrun, wait_until_gone
from runs import assert_same_run, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

STEPS_PER_EPOCH, EPOCHS = 4, 3
SETTINGS = {"optim.epochs": EPOCHS, "checkpoint.every_steps": 2}


def started(data: Path, run_dir: Path, log: Path, *extra: str) -> Running:
    command = torchrun(2, "-m", "dist_oaa", *settings(data, run_dir, **SETTINGS), *extra)
    return Running(command, log)


def steps_logged(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(x)["step"] for x in lines if x.endswith("}")), default=0)


@pytest.fixture(scope="module")
def uninterrupted(demo_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    whole = started(demo_data, folder / "run", folder / "log")
    assert whole.wait(120) == 0, whole.text()
    return folder / "run"


# Fixed seeds: a failure can be repeated. The delay after the step varies where within the next
# step, commit or measurement the blow falls.
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_killed_run_resumes_bit_for_bit(seed, demo_data, uninterrupted, tmp_path):
    rng = random.Random(seed)
    run_dir = tmp_path / "run"
    # Once with the live shards on a disk that the restarted "node" does not have.
    local = ("--store.local_dir", str(tmp_path / "local")) if seed == 3 else ()
    victim = started(demo_data, run_dir, tmp_path / "first.log", *local)
    at_step = rng.randint(2, STEPS_PER_EPOCH * EPOCHS - 2)
    # The first checkpoint must be there, or there is nothing to resume.
    latest = run_dir / "checkpoints" / "latest.json"
    victim.wait_until(lambda: latest.exists() and steps_logged(run_dir) >= at_step, 100)
    pause = rng.random() * 0.15
    deadline = os.times().elapsed + pause
    victim.wait_until(lambda: os.times().elapsed >= deadline, 5)
    if seed % 2:
        victim.kill()
    else:
        # One rank alone: torchrun must notice and end the other.
        os.kill(rng.choice(children(victim.process.pid)), signal.SIGKILL)
        assert victim.wait(100) != 0
    if local:
        shutil.rmtree(tmp_path / "local")
    assert json.loads(latest.read_text())["name"] < final_checkpoint(uninterrupted)
    resumed = started(demo_data, run_dir, tmp_path / "second.log", "--resume", *local)
    assert resumed.wait(120) == 0, resumed.text()
    assert_same_run(uninterrupted, run_dir)
    assert epochs_logged(run_dir) == epochs_logged(uninterrupted)


def final_checkpoint(run_dir: Path) -> str:
    return json.loads((run_dir / "checkpoints" / "latest.json").read_text())["name"]


def epochs_logged(run_dir: Path) -> list[tuple]:
    """(epoch, step, metrics) of every epoch's line, in order: none missing, none twice."""
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [tuple(sorted(x.items(), key=str)) for x in lines if x.get("closes_epoch")]


def test_resume_of_a_finished_run_changes_nothing(demo_data, uninterrupted, tmp_path):
    before = (uninterrupted / "metrics.jsonl").read_text()
    command = torchrun(2, "-m", "dist_oaa", *settings(demo_data, uninterrupted, **SETTINGS))
    code, text = run([*command, "--resume"], tmp_path / "log")
    assert code == 0, text
    assert "is complete" in text
    assert (uninterrupted / "metrics.jsonl").read_text() == before


def test_a_run_killed_before_its_first_checkpoint_begins_again(demo_data, uninterrupted, tmp_path):
    run_dir = tmp_path / "run"
    victim = started(demo_data, run_dir, tmp_path / "first.log")
    victim.wait_until(lambda: (run_dir / "store" / "manifest.json").exists(), 100)
    victim.kill()
    assert not (run_dir / "checkpoints" / "latest.json").exists()
    again = started(demo_data, run_dir, tmp_path / "second.log")
    assert again.wait(120) == 0, again.text()
    assert_same_run(uninterrupted, run_dir)
    assert epochs_logged(run_dir) == epochs_logged(uninterrupted)


def test_workers_die_with_torchrun(demo_data, tmp_path):
    """SIGKILL of torchrun alone leaves no orphans that train on and hold the leases."""
    run_dir = tmp_path / "run"
    command = torchrun(2, "-m", "dist_oaa", *settings(demo_data, run_dir, **{"optim.epochs": 500}))
    victim = Running(command, tmp_path / "log")
    victim.wait_until(lambda: steps_logged(run_dir) >= 1, 100)
    workers = descendants(victim.process.pid)
    assert len(workers) >= 2
    os.kill(victim.process.pid, signal.SIGKILL)
    wait_until_gone(workers, seconds=5)
