"""Pairs, distances and the loss of the affinity network against naive loops and worked numbers."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.models.affinity_losses import (
    ACROSS,
    BACKGROUND,
    OBJECT,
    SMALLEST,
    UNKNOWN,
    affinity_loss,
    half_disc,
    pair_distances,
    pair_kinds,
)

GRIDS = st.tuples(st.integers(1, 7), st.integers(1, 7))


def naive_pairs(height: int, width: int, radius: int) -> set[frozenset]:
    """All pairs of different cells up to `radius` apart."""
    cells = [(y, x) for y in range(height) for x in range(width)]
    return {frozenset(pair) for pair in combinations(cells, 2) if math.dist(*pair) <= radius}


def enumerated(height: int, width: int, radius: int) -> list[tuple]:
    """(pair number, first cell, second cell) as the offsets say."""
    return [
        (p, (y, x), (y + dy, x + dx))
        for p, (dy, dx) in enumerate(half_disc(radius))
        for y in range(height)
        for x in range(width)
        if 0 <= y + dy < height and 0 <= x + dx < width
    ]


@given(GRIDS, st.integers(1, 6))
def test_every_pair_occurs_once(grid, radius):
    pairs = [frozenset((a, b)) for _, a, b in enumerated(*grid, radius)]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == naive_pairs(*grid, radius)


@given(GRIDS, st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_kinds_and_distances_follow_the_loop(grid, radius, seed):
    rng = np.random.default_rng(seed)
    cells_hw = rng.choice(np.array([0, 1, 2, UNKNOWN], np.uint8), grid)
    features_Dhw = rng.normal(size=(3, *grid))
    offsets = half_disc(radius)
    kinds = np.zeros((len(offsets), *grid), int)
    distances = np.zeros(kinds.shape)
    for p, a, b in enumerated(*grid, radius):
        distances[p][a] = np.mean([abs(f[a] - f[b]) for f in features_Dhw])
        one, other = cells_hw[a], cells_hw[b]
        if UNKNOWN not in (one, other):
            kinds[p][a] = ACROSS if one != other else (OBJECT if one else BACKGROUND)
    found = pair_kinds(torch.from_numpy(cells_hw)[None], offsets)[0]
    np.testing.assert_array_equal(found.numpy(), kinds)
    found = pair_distances(torch.from_numpy(features_Dhw)[None], offsets)[0]
    np.testing.assert_allclose(found.numpy(), distances, atol=1e-12)


def test_hand_worked_loss():
    """Background at 0 and 0.5, an object at 2 and 2.25, one unknown cell; all in one row."""
    features = torch.tensor([0.0, 0.5, 2.0, 2.25, 9.0], dtype=torch.float64)[None, None, None]
    cells = torch.tensor([[[0, 0, 3, 3, UNKNOWN]]], dtype=torch.uint8)
    found = affinity_loss(features, cells, radius=2)
    across = [-math.log(1 + SMALLEST - math.exp(-d)) for d in (2.0, 1.5, 1.75)]
    expected = 0.25 * 0.5 + 0.25 * 0.25 + 0.5 * sum(across) / 3
    assert found.loss_B.tolist() == pytest.approx([expected], rel=1e-12)
    assert found.pairs_3.tolist() == [1, 1, 3]
    affinities = [math.exp(-0.5), math.exp(-0.25), sum(math.exp(-d) for d in (2.0, 1.5, 1.75))]
    assert found.affinity_3.tolist() == pytest.approx(affinities, rel=1e-12)


def test_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 2, 3, 3, generator=generator, dtype=torch.float64)
    cells = torch.randint(0, 4, (2, 3, 3), generator=generator, dtype=torch.uint8)
    cells[cells == 3] = UNKNOWN
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: pair_distances(f, half_disc(2)), features)
    assert torch.autograd.gradcheck(lambda f: affinity_loss(f, cells, 2).loss_B, features)


def test_an_image_does_not_depend_on_its_batch():
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(3, 4, 6, 6, generator=generator)
    cells = torch.randint(0, 3, (3, 6, 6), generator=generator, dtype=torch.uint8)
    cells[1] = UNKNOWN
    together = affinity_loss(features, cells, 2).loss_B
    alone = [affinity_loss(features[b : b + 1], cells[b : b + 1], 2).loss_B for b in range(3)]
    np.testing.assert_allclose(together, torch.cat(alone), rtol=1e-6)


def test_an_image_without_pairs_teaches_nothing():
    features = torch.randn(1, 4, 5, 5, requires_grad=True)
    cells = torch.full((1, 5, 5), UNKNOWN, dtype=torch.uint8)
    cells[0, 0, 0] = 1  # a confident cell, but no other
    loss = affinity_loss(features, cells, 3).loss_B.sum()
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()


def test_equal_features_of_two_labels_stay_finite():
    features = torch.zeros(1, 4, 2, 2, requires_grad=True)
    cells = torch.tensor([[[0, 1], [2, 0]]], dtype=torch.uint8)
    loss = affinity_loss(features, cells, 1).loss_B.sum()
    loss.backward()
    assert loss.item() == pytest.approx(-0.5 * math.log(SMALLEST), rel=1e-4)
    assert torch.isfinite(features.grad).all()


def test_half_precision_is_computed_in_float32():
    features = torch.randn(1, 64, 6, 6)
    cells = torch.randint(0, 2, (1, 6, 6), dtype=torch.uint8)
    half = affinity_loss(features.bfloat16(), cells, 2).loss_B
    assert half.dtype == torch.float32
    expected = affinity_loss(features.bfloat16().float(), cells, 2).loss_B
    torch.testing.assert_close(half, expected, rtol=0, atol=0)


def test_other_grids_are_refused():
    with pytest.raises(ValueError, match="not of one grid"):
        affinity_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 5, dtype=torch.uint8), 2)
