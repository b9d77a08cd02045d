"""The drop layer in whole runs: idle it changes nothing, at work it does what it says."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from processes import run, torchrun
from runs import assert_same_run, maps_of, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


def epochs_of(run_dir) -> list[dict]:
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("closes_epoch")]


# A network that has learnt nothing lowers all its scores first, and attends to nothing any more:
# its last bias stays where it is, so that there is something to hide.
SETTINGS = {"optim.epochs": 3, "optim.multipliers": "[1, 2, 10, 0]"}


@pytest.fixture(scope="module")
def trained(demo_data, tmp_path_factory):
    """Runs a small classify once for each set of arguments; its run directory."""
    folder, done = tmp_path_factory.mktemp("drop"), {}

    def train(ranks: int = 1, **changes):
        key = (ranks, *sorted(changes.items()))
        if key not in done:
            run_dir = folder / str(len(done))
            flags = settings(demo_data, run_dir, **SETTINGS | changes)
            code, text = run(torchrun(ranks, "-m", "dist_oaa", *flags), folder / "log")
            assert code == 0, text
            done[key] = run_dir
        return done[key]

    return train


def test_beta_zero_is_plain_accumulation_to_the_last_bit(trained):
    assert_same_run(trained(), trained(drop__where="input", drop__beta=0.0))


@pytest.mark.parametrize("where", ["input", "feature"])
def test_a_run_with_drop_reports_what_it_hid(trained, where):
    run_dir = trained(drop__where=where, drop__beta=1.0, drop__delta=0.3)
    first, *later = epochs_of(run_dir)
    assert first["drop/images"] == first["drop/pixels"] == 0  # nothing was attended before
    for epoch in later:
        assert 0.5 < epoch["drop/images"] <= 1
        assert 0 < epoch["drop/pixels"] < epoch["drop/images"]
    plain = maps_of(trained())
    assert sum(value != plain[key] for key, value in maps_of(run_dir).items()) > len(plain) / 2
    assert (run_dir / "pictures" / "occluded.png").stat().st_size > 1000
    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    assert [e.value for e in events.Scalars("drop/pixels")] == pytest.approx(
        [epoch["drop/pixels"] for epoch in epochs_of(run_dir)]
    )
    assert events.Images("occluded")


def test_two_ranks_hide_what_one_hides(trained):
    alone, both = (
        epochs_of(trained(ranks, drop__where="input", drop__beta=0.5, drop__delta=0.3))
        for ranks in (1, 2)
    )
    for one, two in zip(alone, both, strict=True):
        # Gradients are summed in another order: weights, and so attention, differ in last digits.
        assert two["drop/images"] == pytest.approx(one["drop/images"], abs=1e-9)
        assert two["drop/pixels"] == pytest.approx(one["drop/pixels"], abs=0.01)
        assert two["train/epoch_loss"] == pytest.approx(one["train/epoch_loss"], rel=1e-3)
