"""A training of affinities that is killed and resumed equals the uninterrupted one, bit for bit."""

import json

import pytest

from affinity_runs import affinity_settings
from dist_oaa.cli import run as oaa
from processes import Running, torchrun
from runs import assert_same_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

SETTINGS = {"optim.epochs": 2, "checkpoint.every_steps": 1}


def epoch_lines(run_dir) -> list[dict]:
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("closes_epoch")]


def test_killed_run_resumes_bit_for_bit(demo_data, tmp_path, capsys):
    def start(name: str, *extra: str) -> Running:
        labels = demo_data / "SegmentationClass"
        flags = affinity_settings(demo_data, labels, tmp_path / name, **SETTINGS)
        command = torchrun(2, "-m", "dist_oaa", *flags, *extra)
        return Running(command, tmp_path / f"{name}{len(extra)}.log")

    whole, run_dir = start("whole"), tmp_path / "killed"
    assert whole.wait(200) == 0, whole.text()
    victim = start("killed")
    log, latest = run_dir / "metrics.jsonl", run_dir / "checkpoints" / "latest.json"
    victim.wait_until(
        lambda: latest.exists() and log.exists() and '"step": 5' in log.read_text(), 100
    )
    victim.kill()
    resumed = start("killed", "--resume")
    assert resumed.wait(200) == 0, resumed.text()
    assert "resuming after" in resumed.text()
    assert_same_weights(tmp_path / "whole", run_dir)
    assert epoch_lines(run_dir) == epoch_lines(tmp_path / "whole")
    capsys.readouterr()
    labels = demo_data / "SegmentationClass"
    oaa(affinity_settings(demo_data, labels, run_dir, resume="true", **SETTINGS))
    assert f"{run_dir} is complete: 2 epochs were done before" in capsys.readouterr().out
