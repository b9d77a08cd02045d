"""Classifiers with more than one head or layer, in whole runs of `oaa classify`."""

import json
import os
import signal

import numpy as np
import pytest

from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import Interrupted
from dist_oaa.stages.classifying.stage import ClassifyStage
from processes import run, torchrun
from runs import assert_same_run, maps_of, settings, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

VARIANTS = ["acol", "adl", "seenet", "two_branch"]
SETTINGS = {
    # 24 images in steps of 23 and 1: in every second step one of two ranks has no image.
    "optim.batch_size": 23,
    "optim.epochs": 3,
    # A network that has learnt nothing lowers all its scores first, and attends to nothing any
    # more: its last biases stay where they are, so that there is something to erase.
    "optim.multipliers": "[1, 2, 10, 0]",
    "model.erase.adl_where": "both",
    "drop.where": "feature",
    "drop.delta": 0.3,
    "checkpoint.every_steps": 1,
}


def epochs_of(run_dir) -> list[dict]:
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("closes_epoch")]


@pytest.fixture(scope="module")
def alone(demo_data, tmp_path_factory):
    """Runs each variant once as a world of one; its run directory."""
    folder, done = tmp_path_factory.mktemp("variants"), {}

    def train(variant: str):
        if variant not in done:
            done[variant] = folder / variant
            changes = SETTINGS | {"model.variant": variant}
            oaa(settings(demo_data, done[variant], **changes))
        return done[variant]

    return train


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_train_and_accumulate_as_one(variant, alone, demo_data, tmp_path):
    run_dir = tmp_path / "both"
    flags = settings(demo_data, run_dir, **SETTINGS | {"model.variant": variant})
    code, text = run(torchrun(2, "-m", "dist_oaa", *flags), tmp_path / "log")
    assert code == 0, text
    one, two = epochs_of(alone(variant)), epochs_of(run_dir)
    assert len(one) == 3
    for single, double in zip(one, two, strict=True):
        # Gradients are summed in another order: weights, and so maps, differ in last digits.
        for name in ("train/epoch_loss", "accept_rate", "drop/images"):
            assert double[name] == pytest.approx(single[name], rel=1e-3), name
        for name in ("cam/recall", "cumulative/recall", "cumulative/noise", "drop/pixels"):
            assert double[name] == pytest.approx(single[name], abs=0.02), name
    maps, others = maps_of(alone(variant)), maps_of(run_dir)
    assert maps.keys() == others.keys()
    assert one[-1]["cumulative/recall"] > 0
    assert one[-1]["drop/pixels"] > 0
    for key, (pixels, _, accepted, _) in maps.items():
        assert accepted == others[key][2] == 3
        here, there = (np.frombuffer(p, np.uint8).astype(int) for p in (pixels, others[key][0]))
        assert np.abs(here - there).mean() < 2, key


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stopped_run_resumes_bit_for_bit(variant, alone, demo_data, tmp_path, monkeypatch):
    """Asked to stop in the second epoch, before its last step."""
    flags = settings(demo_data, tmp_path / "cut", **SETTINGS | {"model.variant": variant})
    before_step = ClassifyStage.before_step

    def stop_in_third(stage, step, total_steps):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return before_step(stage, step, total_steps)

    monkeypatch.setattr(ClassifyStage, "before_step", stop_in_third)
    with pytest.raises(Interrupted):
        oaa(flags)
    monkeypatch.undo()
    latest = json.loads((tmp_path / "cut" / "checkpoints" / "latest.json").read_text())
    assert 3 <= int(latest["name"].split("-")[1]) < 6
    oaa([*flags, "--resume"])
    assert_same_run(alone(variant), tmp_path / "cut")
    assert epochs_of(alone(variant)) == epochs_of(tmp_path / "cut")


def test_the_variants_are_different_networks_on_the_same_trunk(alone):
    weights = {variant: weights_of(alone(variant)) for variant in VARIANTS}
    heads = {
        variant: {key.split(".")[1] for key in of if key.startswith("model.")} - {"trunk"}
        for variant, of in weights.items()
    }
    assert heads == {
        "acol": {"head", "erased_head"},
        "adl": {"head"},
        "seenet": {"head", "erased_head", "background_head"},
        "two_branch": {"head", "integral_head"},
    }
    losses = {variant: epochs_of(alone(variant))[0]["train/epoch_loss"] for variant in VARIANTS}
    # A loss a head: those of untrained heads are log 2 each.
    assert losses["acol"] == pytest.approx(2 * losses["adl"], rel=0.15)
    assert losses["seenet"] == pytest.approx(3 * losses["adl"], rel=0.15)
    # The second branch begins in the second epoch; it has a loss of its own kind.
    assert losses["two_branch"] == pytest.approx(losses["adl"], rel=0.15)
    taught = ["train/branch_loss" in line for line in epochs_of(alone("two_branch"))]
    assert taught == [False, True, True]


def test_before_it_learns_the_second_branch_changes_nothing(alone):
    """Epoch 0 is that of the plain classifier to the last bit; from epoch 1 the trunk is shared."""
    plain, branched = epochs_of(alone("cam")), epochs_of(alone("two_branch"))
    assert set(branched[0]) - set(plain[0]) == {
        key for key in branched[0] if key.startswith(("integral/", "per_class/integral/"))
    }
    assert {key: branched[0][key] for key in plain[0]} == plain[0]
    assert branched[0]["cumulative/recall"] > 0
    assert branched[1]["train/epoch_loss"] != plain[1]["train/epoch_loss"]
