"""Fusions against hand-worked examples and the papers' closed forms."""

from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.attention.fusions import FUSIONS

unit = st.floats(0, 1, width=32)


def fold(fusion: str, values: list[float]) -> float:
    """M after the updates of one cell, starting from an empty map."""
    state = torch.zeros(1)
    for t, value in enumerate(values, start=1):
        state = FUSIONS[fusion](state, torch.tensor([value]), torch.tensor(float(t)))
    return float(state)


def test_average_by_hand():
    assert fold("average", [0.25]) == 0.25
    assert fold("average", [0.25, 0.75]) == 0.5
    assert fold("average", [0.0, 0.0, 0.75]) == 0.25


@given(st.lists(unit, min_size=1, max_size=8))
def test_max_is_the_largest_and_average_is_the_mean_over_time(values):
    assert fold("max", values) == max(values)
    assert fold("average", values) == pytest.approx(fmean(values), abs=1e-6)


@given(st.lists(unit, min_size=2, max_size=6), st.randoms())
def test_max_ignores_order_and_repetition(values, random):
    shuffled = values * 2
    random.shuffle(shuffled)
    assert fold("max", shuffled) == fold("max", values)


@given(unit, st.integers(1, 9))
def test_average_of_equal_maps_is_that_map(value, times):
    assert fold("average", [value] * times) == pytest.approx(value, abs=1e-6)


def test_counts_broadcast_against_maps():
    previous, attention = torch.full((2, 3, 3), 0.5), torch.ones(2, 3, 3)
    t = torch.tensor([1.0, 2.0])[:, None, None]
    averaged = FUSIONS["average"](previous, attention, t)
    assert averaged[0].eq(1.0).all()
    assert averaged[1].eq(0.75).all()
