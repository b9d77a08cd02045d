"""A segmentation training that is killed and resumed equals the uninterrupted one, bit for bit."""

import json
import random

import pytest

from processes import Running, torchrun
from runs import assert_same_weights, labels_from_masks, segment_settings, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

# Batch norm learns from each rank's own images: its statistics must come back as well.
SETTINGS = {
    "optim.epochs": 3,
    "checkpoint.every_steps": 1,
    "network.batch_norm": "train",
    "network.dropout": 0.5,
    "optim.batch_size": 5,
}


def epoch_lines(run_dir) -> list[dict]:
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("closes_epoch")]


@pytest.fixture(scope="module")
def started(demo_data, tmp_path_factory):
    """Starts a training on two ranks in a folder of that name."""
    folder = tmp_path_factory.mktemp("segment")
    labels = labels_from_masks(demo_data, folder / "labels")

    def start(name: str, *extra: str) -> Running:
        flags = segment_settings(demo_data, labels, folder / name, **SETTINGS)
        command = torchrun(2, "-m", "dist_oaa", *flags, *extra)
        return Running(command, folder / f"{name}{len(extra)}.log")

    start.folder = folder
    return start


def test_killed_run_resumes_bit_for_bit(started):
    whole, run_dir = started.folder / "whole", started.folder / "killed"
    complete = started("whole")
    assert complete.wait(200) == 0, complete.text()
    victim = started("killed")
    log, latest = run_dir / "metrics.jsonl", run_dir / "checkpoints" / "latest.json"
    step = random.Random(7).randint(5, 9)  # in the second or third epoch of four steps
    victim.wait_until(
        lambda: latest.exists() and log.exists() and f'"step": {step}' in log.read_text(), 100
    )
    victim.kill()
    resumed = started("killed", "--resume")
    assert resumed.wait(200) == 0, resumed.text()
    assert "resuming after" in resumed.text()
    assert_same_weights(whole, run_dir)
    assert any("running_var" in name for name in weights_of(whole))
    assert epoch_lines(run_dir) == epoch_lines(whole)
