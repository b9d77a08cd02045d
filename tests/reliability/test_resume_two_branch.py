"""The network of two branches after a kill: F2 learns the maps as they stand, so that maps which
are ahead of the weights, or behind them, would teach it something else."""

import json

import pytest

from processes import Running, torchrun
from runs import assert_same_run, settings, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

SETTINGS = {
    "optim.epochs": 3,
    # Untrained scores fall first, and nothing is attended to any more: the last bias stays.
    "optim.multipliers": "[1, 2, 10, 0]",
    "checkpoint.every_steps": 1,
    "model.variant": "two_branch",
    "model.two_branch.start_epoch": 1,
    "accumulate.fusion": "average",
    "drop.where": "input",
    "drop.beta": 1.0,
    "drop.delta": 0.3,
}


def epoch_lines(run_dir) -> list[dict]:
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("closes_epoch")]


def test_killed_run_resumes_bit_for_bit(demo_data, tmp_path):
    def start(name: str, *extra: str) -> Running:
        flags = settings(demo_data, tmp_path / name, **SETTINGS)
        log = tmp_path / f"{name}{len(extra)}.log"
        return Running(torchrun(2, "-m", "dist_oaa", *flags, *extra), log)

    whole = start("whole")
    assert whole.wait(120) == 0, whole.text()
    victim = start("cut")
    log = tmp_path / "cut" / "metrics.jsonl"
    latest = tmp_path / "cut" / "checkpoints" / "latest.json"
    # In the second epoch of four steps, in which F2 has learnt for a step or two.
    victim.wait_until(
        lambda: latest.exists() and log.exists() and '"step": 6' in log.read_text(), 100
    )
    victim.kill()
    assert json.loads(latest.read_text())["name"] < "step-00000012"
    resumed = start("cut", "--resume")
    assert resumed.wait(120) == 0, resumed.text()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert epoch_lines(tmp_path / "cut") == epoch_lines(tmp_path / "whole")
    lines = epoch_lines(tmp_path / "whole")
    assert ["train/branch_loss" in line for line in lines] == [False, True, True]
    assert lines[-1]["train/attended_cells"] > 0
    assert any(key.startswith("model.integral_head") for key in weights_of(tmp_path / "whole"))
