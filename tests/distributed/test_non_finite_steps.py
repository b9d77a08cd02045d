"""A NaN that one rank alone sees: both leave the step out, or stop, alike."""

import json
import re
from pathlib import Path

import pytest

from dist_oaa.runtime.checkpoint import load_checkpoint
from processes import run, torchrun
from runs import settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

WORKER = Path(__file__).with_name("non_finite_worker.py")


def test_one_rank_alone_gets_a_nan(demo_data, tmp_path):
    """One step of epoch 1 is left out; epoch 2 has too many such and stops on both ranks."""
    names = (demo_data / "ImageSets/Segmentation/trainval.txt").read_text().split()
    run_dir, victim = tmp_path / "run", names[0]
    policy = {"optim.on_non_finite": "skip_batch", "optim.skip_limit": 0.3}
    arguments = settings(demo_data, run_dir, **policy)
    command = torchrun(2, str(WORKER), json.dumps([[victim], names]), *arguments)
    code, text = run(command, tmp_path / "log", seconds=150)
    assert code == 1, text
    assert text.count("oaa: error:") == 1, text
    assert "2 of the 4 steps of an epoch were left out" in text
    assert "epoch 1: left out 1 of 4 steps" in text
    told = re.findall(r"rank (\d) steps (\d+) weights (\w{64})", text)
    assert sorted(rank for rank, *_ in told) == ["0", "1"], text
    assert len({(steps, digest) for _, steps, digest in told}) == 1, "the ranks went apart"

    first, *later = json.loads((run_dir / "non_finite.json").read_text())
    assert (first["epoch"], first["action"]) == (1, "skipped")
    losses = [part["rank"] for part in first["ranks"] if "loss" in part["not_finite"]]
    assert len(losses) == 1
    assert victim in first["ranks"][losses[0]]["images"]
    assert all(part["images"] for part in first["ranks"]), "the other rank's are named too"
    assert [entry["step"] for entry in later] == [5, 6]
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    (closing,) = (line for line in lines if line.get("closes_epoch"))
    assert closing["train/skipped_steps"] == 1
    assert first["step"] not in [line["step"] for line in lines if "train/loss" in line]
    state = load_checkpoint(run_dir / "checkpoints").state
    assert (state["epoch"], state["step"], state["left_out"]) == (1, 4, 0)
