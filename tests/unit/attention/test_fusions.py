"""Fusions against hand-worked examples and the papers' closed forms."""

from statistics import fmean, harmonic_mean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.attention.batch import Rules
from dist_oaa.attention.fusions import FUSIONS, Fusion, Step, find_fusion, stored_dtype
from dist_oaa.attention.fusions.ema import DECAY
from dist_oaa.attention.fusions.harmonic import FLOOR
from dist_oaa.config.errors import UserError

unit = st.floats(0, 1, width=32)


def fold(fusion: str, values: list[float]) -> float:
    """M after the updates of one cell, starting from an empty map."""
    state = last = torch.zeros(1)
    for t, value in enumerate(values, start=1):
        attention = torch.tensor([value])
        state = FUSIONS[fusion].function(Step(state, attention, last, torch.tensor(float(t))))
        last = attention
    return float(state)


def test_average_by_hand():
    assert fold("average", [0.25]) == 0.25
    assert fold("average", [0.25, 0.75]) == 0.5
    assert fold("average", [0.0, 0.0, 0.75]) == 0.25


@given(st.lists(unit, min_size=1, max_size=8))
def test_max_is_the_largest_and_average_is_the_mean_over_time(values):
    assert fold("max", values) == max(values)
    assert fold("average", values) == pytest.approx(fmean(values), abs=1e-6)


def test_harmonic_by_hand():
    assert fold("harmonic", [0.5]) == pytest.approx(0.5)
    # 1 stays 1 when it is raised by the floor, 0 becomes 1/255.
    assert fold("harmonic", [1.0, 0.0]) == pytest.approx((2 / (1 + 255) - 1 / 255) / (254 / 255))
    assert fold("harmonic", [0.0, 0.0, 0.0]) == pytest.approx(0, abs=1e-7)
    # A place missed once is nearly ruled out, but not for good.
    assert 0 < fold("harmonic", [0.0, 1.0]) < fold("harmonic", [0.0, 1.0, 1.0]) < 0.02


@given(st.lists(unit, min_size=1, max_size=8))
def test_harmonic_is_the_harmonic_mean_and_never_above_the_average(values):
    mean = harmonic_mean([FLOOR + (1 - FLOOR) * value for value in values])
    assert fold("harmonic", values) == pytest.approx((mean - FLOOR) / (1 - FLOOR), abs=2e-6)
    assert 0 <= fold("harmonic", values) <= fold("average", values) + 1e-6


def test_ema_by_hand():
    assert fold("ema", [0.5]) == 0.5
    assert fold("ema", [0.5, 1.0]) == pytest.approx(DECAY * 0.5 + (1 - DECAY))


@given(st.lists(unit, min_size=1, max_size=8))
def test_ema_weighs_the_past_by_powers_of_its_decay(values):
    weights = [(1 - DECAY) * DECAY**age for age in range(len(values))]
    weights[-1] = DECAY ** (len(values) - 1)  # the first one stands for all before it
    expected = sum(w * v for w, v in zip(weights, reversed(values), strict=True))
    assert fold("ema", values) == pytest.approx(expected, abs=1e-6)


@given(st.lists(unit, min_size=2, max_size=6), st.randoms())
def test_max_ignores_order_and_repetition(values, random):
    shuffled = values * 2
    random.shuffle(shuffled)
    assert fold("max", shuffled) == fold("max", values)


@given(st.sampled_from(sorted(FUSIONS)), unit, st.integers(1, 9))
def test_every_fusion_of_equal_maps_is_that_map(fusion, value, times):
    assert fold(fusion, [value] * times) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_counts_broadcast_against_maps(fusion):
    previous, attention = torch.full((2, 3, 3), 0.5), torch.ones(2, 3, 3)
    t = torch.tensor([1.0, 2.0])[:, None, None]
    fused = FUSIONS[fusion].function(Step(previous, attention, previous, t))
    assert fused[0].eq(1.0).all()
    raised = FLOOR + (1 - FLOOR) * 0.5
    harmonic = (2 / (1 + 1 / raised) - FLOOR) / (1 - FLOOR)
    expected = {"max": 1, "average": 0.75, "harmonic": harmonic, "ema": 0.5 * DECAY + (1 - DECAY)}
    torch.testing.assert_close(fused[1], torch.full((3, 3), float(expected[fusion])))


LATEST = Fusion("latest", lambda step: step.attention)
NO_FUSION = "max"


def test_a_fusion_of_ones_own_is_found_by_its_module():
    assert find_fusion(f"{__name__}:LATEST") is LATEST
    assert Rules(fusion=f"{__name__}:LATEST").fusion.endswith("LATEST")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mean", "expected max, average, harmonic, ema"),
        ("no_such_module:FUSION", "No module named"),
        (f"{__name__}:NOWHERE", "no attribute"),
        (f"{__name__}:NO_FUSION", r"is a str, expected a dist_oaa"),
        (":NAME", "Empty module name"),
    ],
)
def test_what_is_no_fusion_is_named(name, reason):
    with pytest.raises(UserError, match=reason):
        find_fusion(name)


def test_means_are_kept_as_floats():
    assert stored_dtype("auto", FUSIONS["max"]) == "uint8"
    assert stored_dtype("float16", FUSIONS["max"]) == "float16"
    for name in ("average", "harmonic", "ema"):
        assert stored_dtype("auto", FUSIONS[name]) == "float32"
        with pytest.raises(UserError, match=f"dtype is uint8, expected float32.*{name}"):
            stored_dtype("uint8", FUSIONS[name])
