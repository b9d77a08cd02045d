"""The benchmark of exactly elastic steps: both steps learn the same, and it runs."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from bench_exact import RUNTIME, Images, images_of, make_loop, take_step  # noqa: E402

from dist_oaa.config.model import ModelConfig, OptimConfig  # noqa: E402
from dist_oaa.runtime.distributed import World  # noqa: E402
from dist_oaa.runtime.exact_step import repeatable  # noqa: E402

ALONE = World(0, 1, 0, torch.device("cpu"))


def test_both_steps_do_the_same_work():
    args = argparse.Namespace(batch=5, size=64, parts=3)
    model = ModelConfig(backbone="test_efficientnet", weights="none", head_channels=8)
    exact = OptimConfig(lr=0.1, exact_elastic=True, virtual_batches=3)
    parts = images_of(args, ALONE)
    assert [len(part) for part in parts] == [2, 2, 1]
    weights = []
    for optim, batch in (
        (OptimConfig(lr=0.1), Images([torch.cat(parts)])),
        (exact, Images(parts)),
    ):
        loop = make_loop(optim, model, ALONE)
        before = [p.detach().clone() for p in loop.trainable.model.parameters()]
        with repeatable(exact, RUNTIME, ALONE):
            take_step(loop, batch, 5)
        after = list(loop.trainable.model.parameters())
        weights.append(torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)]))
    assert weights[0].abs().max() > 1e-4
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-6)


def test_the_ranks_share_the_images():
    args = argparse.Namespace(batch=7, size=8, parts=4)
    ranks = [images_of(args, World(r, 2, 0, torch.device("cpu"))) for r in range(2)]
    assert [[len(part) for part in parts] for parts in ranks] == [[2, 2], [2, 1]]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_it_runs_and_writes_its_figures(tmp_path):
    path = tmp_path / "exact.json"
    small = ["--rounds", "1", "--batch", "4", "--parts", "2", "--size", "64", "--ranks", "2"]
    command = [sys.executable, str(TOOLS / "bench_exact.py"), *small, "--json", str(path)]
    command += ["--backbone", "test_efficientnet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())
    assert row["name"] == "exactly elastic step against DDP's, 2 processes"
    assert row["value"] > 0
    assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout
