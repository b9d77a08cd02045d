"""Signals ask a run to stop: it writes a checkpoint, says so and exits with 75."""

import json
import os
import signal

import pytest

from processes import Running, alone, torchrun
from runs import assert_same_run, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


def steps_logged(run_dir) -> int:
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(x)["step"] for x in lines if x.endswith("}")), default=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_run_alone_stops_with_75_and_resumes(number, demo_data, tmp_path):
    run_dir = tmp_path / "run"
    arguments = settings(demo_data, run_dir, **{"optim.epochs": 60})
    victim = Running(alone(*arguments), tmp_path / "first.log")
    victim.wait_until(lambda: steps_logged(run_dir) >= 3, 90)
    os.kill(victim.process.pid, number)
    assert victim.wait(60) == 75, victim.text()
    assert f"stopped by {number.name}" in victim.text()
    assert "Traceback" not in victim.text()
    done = json.loads((run_dir / "checkpoints" / "latest.json").read_text())
    assert int(done["name"].split("-")[1]) >= 3


def test_torchrun_hands_a_signal_to_all_ranks(demo_data, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    extra = {"optim.epochs": 3, "data.workers": 1}
    complete = Running(
        torchrun(2, "-m", "dist_oaa", *settings(demo_data, whole, **extra)), tmp_path / "w.log"
    )
    assert complete.wait(120) == 0, complete.text()

    handled = ["--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
    arguments = settings(demo_data, cut, **extra)
    victim = Running(torchrun(2, *handled, "-m", "dist_oaa", *arguments), tmp_path / "c.log")
    victim.wait_until(lambda: steps_logged(cut) >= 2, 100)
    os.kill(victim.process.pid, signal.SIGUSR1)
    assert victim.wait(60) != 0
    assert "stopped by SIG" in victim.text(), victim.text()
    resumed = Running(torchrun(2, "-m", "dist_oaa", *arguments, "--resume"), tmp_path / "r.log")
    assert resumed.wait(120) == 0, resumed.text()
    assert_same_run(whole, cut)
