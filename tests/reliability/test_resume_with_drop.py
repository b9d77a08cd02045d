"""What replay alone would break: the drop layer reads A_{t-1}, and a mean counts what it saw."""

import json
import random

import pytest

from processes import Running, torchrun
from runs import assert_same_run, maps_of, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

# A network that has learnt nothing lowers all its scores first, and attends to nothing any more:
# its last bias stays where it is, so that there is something to hide.
SETTINGS = {
    "optim.epochs": 3,
    "optim.multipliers": "[1, 2, 10, 0]",
    "checkpoint.every_steps": 1,
    "drop.beta": 1.0,
    "drop.delta": 0.3,
    "accumulate.fusion": "average",
    "accumulate.compare": "[ema, none+max]",
}


def epoch_lines(run_dir) -> list[dict]:
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("closes_epoch")]


def test_killed_run_resumes_bit_for_bit(demo_data, tmp_path):
    def start(name: str, *extra: str) -> Running:
        flags = settings(demo_data, tmp_path / name, **SETTINGS)
        command = torchrun(2, "-m", "dist_oaa", *flags, "--drop.where", "input", *extra)
        return Running(command, tmp_path / f"{name}{len(extra)}.log")

    whole = start("whole")
    assert whole.wait(120) == 0, whole.text()
    rng = random.Random("input")
    at_step = rng.randint(5, 9)  # in the second or third epoch of four steps
    victim = start("cut")
    log = tmp_path / "cut" / "metrics.jsonl"
    latest = tmp_path / "cut" / "checkpoints" / "latest.json"
    victim.wait_until(
        lambda: latest.exists() and log.exists() and f'"step": {at_step}' in log.read_text(), 100
    )
    victim.kill()
    resumed = start("cut", "--resume")
    assert resumed.wait(120) == 0, resumed.text()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    for store in ("store-ema", "store-none_max"):
        compared = maps_of(tmp_path / "whole" / store)
        assert compared == maps_of(tmp_path / "cut" / store)
        assert compared != maps_of(tmp_path / "whole")
    assert epoch_lines(tmp_path / "cut") == epoch_lines(tmp_path / "whole")
    assert epoch_lines(tmp_path / "whole")[-1]["drop/pixels"] > 0
