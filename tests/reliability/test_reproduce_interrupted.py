"""`oaa reproduce` with real runs: stopped, continued, killed; nothing finished is made again."""

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from processes import Running, alone, descendants, run, wait_until_gone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TABLE = {
    "title": "Two small runs",
    "columns": ["recall", "seed_miou"],
    "paper_columns": {"recall": "in %"},
    "scales": {
        "cpu": {
            "seeds": [0],
            "classify": {
                "settings": {
                    "data": {"split": "trainval", "resize": "square", "size": 64, "workers": 0},
                    "model": {"backbone": "test_efficientnet", "weights": "none"},
                    "model.head_channels": 16,
                    "optim": {"batch_size": 6, "epochs": 1, "lr": 0.05},
                    "accumulate": {"map_size": 16, "gate": "none", "start_epoch": 0},
                    "store.shards": 6,
                    "evaluate": {"images": 6, "gallery": 0},
                    "runtime": {"device": "cpu", "timeout_s": 60, "log_every": 1},
                    "checkpoint.every_steps": 2,
                }
            },
        }
    },
    "runs": {
        "short": {"stage": "classify"},
        "long": {"stage": "classify", "settings": {"optim.epochs": 8}},
    },
    "rows": [
        {"name": "CAM", "run": "short", "maps": "cam", "paper": {"recall": 36.7}},
        {"name": "OAA", "run": "short"},
        {"name": "longer", "run": "long"},
    ],
    "plot": {"kind": "epochs", "columns": ["recall"]},
}


@pytest.fixture
def command(demo_data, tmp_path) -> list[str]:
    """The command line that makes the table on two processes."""
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(TABLE))
    where = ["--data.root", str(demo_data), "--run_dir", str(tmp_path / "out")]
    return alone("reproduce", str(path), *where, "--workers", "2")


def steps_of(out: Path, name: str) -> int:
    """Optimiser steps that the newest checkpoint of a run holds."""
    for path in out.glob(f"runs/{name}-*/checkpoints/latest.json"):
        return int(json.loads(path.read_text())["name"].split("-")[1])
    return 0


def test_the_same_command_goes_on_and_makes_nothing_twice(command, tmp_path):
    out = tmp_path / "out"
    victim = Running(command, tmp_path / "first.log")
    victim.wait_until(lambda: steps_of(out, "long") >= 2, 300)
    family = descendants(victim.process.pid)
    os.kill(victim.process.pid, signal.SIGTERM)
    assert victim.wait(120) == 75, victim.text()
    assert "the same command goes on from here" in victim.text()
    assert "Traceback" not in victim.text()
    wait_until_gone(family, 10)
    (short,) = out.glob("runs/short-*/run.json")
    made = short.read_bytes()
    assert json.loads(made)["finished"]
    rows = (out / "two.md").read_text()
    assert "| longer | - | - | - | 0 |" in rows
    done = steps_of(out, "long")

    code, text = run(command, tmp_path / "second.log", 300)
    assert code == 0, text
    assert "1 run to make, 1 finished before" in text
    assert "going on from its checkpoint" in text
    assert short.read_bytes() == made
    (long,) = out.glob("runs/long-*")
    assert f"resuming after {done} steps" in (long / "log.txt").read_text()
    last = json.loads((long / "metrics.jsonl").read_text().splitlines()[-1])
    rows = (out / "two.md").read_text()
    figures = [f"{100 * last[f'cumulative/{name}']:.1f}" for name in ("recall", "seed_miou")]
    assert f"| longer | - | {figures[0]} | {figures[1]} | 1 |" in rows
    assert (out / "two.png").read_bytes().startswith(b"\x89PNG")
    assert len((out / "two.csv").read_text().splitlines()) == 4

    code, text = run(command, tmp_path / "third.log", 120)
    assert code == 0, text
    assert "0 runs to make, 2 finished before" in text


def test_nothing_outlives_a_killed_command(command, tmp_path):
    victim = Running([*command, "--only", "longer"], tmp_path / "killed.log")
    victim.wait_until(lambda: steps_of(tmp_path / "out", "long") >= 2, 300)
    family = descendants(victim.process.pid)
    assert len(family) >= 3  # torchrun and its two workers
    os.kill(victim.process.pid, signal.SIGKILL)
    victim.process.wait()
    wait_until_gone(family, 10)
