"""Properties of accumulation, held by both paths: what a user may rely on."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import assert_same_bits, bits, cases, copy_bank, single
from dist_oaa.attention.bank import DTYPES, MapBank
from dist_oaa.attention.batch import Observation, Pairs, Rules
from dist_oaa.attention.update import PATHS, update
from dist_oaa.data.geometry import HORIZONTAL_FLIP_23, crop_23, then

NAN = math.nan
both_paths = pytest.mark.parametrize("path", sorted(PATHS))


def random_feature(seed: int, shape: tuple[int, int] = (9, 13)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def accumulated(
    steps: list[Observation], size: int = 8, dtype=torch.uint8, path="vectorised", **rules
) -> MapBank:
    bank = MapBank.empty(2, size, dtype)
    for seen in steps:
        update(bank, seen, Rules(**rules), path)
    return bank


@both_paths
def test_max_ignores_order_and_repetition(path):
    steps = [single(random_feature(s), g) for s, g in enumerate([crop_23(0, 0, 0.6, 1)] * 2)]
    steps.append(single(random_feature(9)))
    expected = accumulated(steps, path=path).maps_RSS
    assert expected.unique().numel() > 20
    for order in itertools.permutations(steps):
        assert torch.equal(accumulated([*order], path=path).maps_RSS, expected)
        assert torch.equal(accumulated([*order, *order], path=path).maps_RSS, expected)


@both_paths
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_average_of_equal_maps_is_that_map(path, dtype):
    seen = single(random_feature(0))
    once = accumulated([seen], dtype=DTYPES[dtype], path=path, fusion="average")
    often = accumulated([seen] * 7, dtype=DTYPES[dtype], path=path, fusion="average")
    assert torch.equal(often.maps_RSS, once.maps_RSS)
    assert often.accepted_R.tolist() == [7, 0]


@both_paths
def test_average_is_the_mean_of_the_accepted_maps_only(path):
    features = [random_feature(s) for s in range(5)]
    scores = [1.0, -1.0, 1.0, -1.0, 1.0]  # the second and the fourth lose to the other class
    steps = [single(f, score=s) for f, s in zip(features, scores, strict=True)]
    bank = accumulated(steps, dtype=torch.float32, path=path, fusion="average")
    alone = [accumulated([steps[k]], dtype=torch.float32, path=path).maps_RSS for k in (0, 2, 4)]
    torch.testing.assert_close(bank.maps_RSS, torch.stack(alone).mean(dim=0))
    assert torch.equal(bank.last_RSS, alone[2])


@both_paths
@given(seed=st.integers(0, 999), shape=st.sampled_from([(1, 1), (7, 1), (28, 37), (5, 8)]))
@settings(max_examples=20, deadline=None)
def test_a_flip_is_undone(path, seed, shape):
    feature = random_feature(seed, shape)
    upright = accumulated([single(feature)], 9, path=path)
    flipped = accumulated([single(feature.flip(1), HORIZONTAL_FLIP_23)], 9, path=path)
    assert (upright.maps_RSS.int() - flipped.maps_RSS.int()).abs().max() <= 1


@both_paths
@pytest.mark.parametrize("size", [1, 8, 28, 41])
def test_a_flip_is_undone_exactly_when_features_and_map_have_the_same_cells(path, size):
    generator = torch.Generator().manual_seed(size)
    levels = torch.randint(-100, 256, (size, size), generator=generator)
    levels.view(-1)[0] = 255  # attention in whole steps of uint8: sampling must not move them
    upright = accumulated([single(levels.float())], size, path=path)
    flipped = accumulated([single(levels.flip(1).float(), HORIZONTAL_FLIP_23)], size, path=path)
    assert torch.equal(upright.maps_RSS[0], levels.clamp(min=0).to(torch.uint8))
    assert torch.equal(flipped.maps_RSS, upright.maps_RSS)


def scene(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A smooth attention over the whole image whose maximum lies at (0.45, 0.55)."""
    wave = 0.2 * np.sin(9 * u) * np.cos(7 * v)
    return np.exp(-12 * ((u - 0.45) ** 2 + (v - 0.55) ** 2)) * (1 + wave) - 0.05


def seen_through(geometry_23: np.ndarray, rows: int, columns: int) -> torch.Tensor:
    """The scene at the feature cells of an input that was made by `geometry_23`."""
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    linear, shift = geometry_23[:, :2], geometry_23[:, 2:]
    u, v = np.linalg.solve(linear, np.stack([x.ravel(), y.ravel()]) - shift)
    return torch.from_numpy(scene(u, v).reshape(rows, columns)).float()


@both_paths
@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_undone_and_leaves_the_rest_alone(path, flip):
    rows, columns, size = 40, 60, 41
    left, top, width, height = 12, 8, 36, 28  # a crop on the whole image's cells
    whole = np.eye(3)[:2]
    geometry_23 = crop_23(left / columns, top / rows, width / columns, height / rows)
    if flip:
        geometry_23 = then(geometry_23, HORIZONTAL_FLIP_23)
    before = single(random_feature(4))
    reference = accumulated([single(seen_through(whole, rows, columns))], size, path=path)
    earlier = accumulated([before], size, path=path)
    bank = copy_bank(earlier)
    cropped = seen_through(geometry_23, height, width)
    update(bank, single(cropped, geometry_23), Rules(), path)

    u, v = np.meshgrid((np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size)
    column, row = u * columns, v * rows  # in feature cells of the whole image
    inside = (column >= left) & (column <= left + width) & (row >= top) & (row <= top + height)
    margin = np.minimum(
        np.minimum(column - left, left + width - column),
        np.minimum(row - top, top + height - row),
    )
    error = (bank.last_RSS[0].int() - reference.maps_RSS[0].int()).abs().numpy()
    assert 400 < inside.sum() < 1000
    # Within half a feature cell of the border the crop has no neighbour to interpolate with.
    assert error[inside & (margin >= 0.5)].max() <= 2
    assert error[inside].max() <= 8
    assert error[~inside].max() > 8
    expected = torch.maximum(earlier.maps_RSS[0], bank.last_RSS[0])
    assert torch.equal(bank.maps_RSS[0], expected)
    outside = torch.from_numpy(~inside)
    assert torch.equal(bank.maps_RSS[0][outside], earlier.maps_RSS[0][outside])
    assert torch.equal(bank.last_RSS[0][outside], earlier.last_RSS[0][outside])


@both_paths
@settings(max_examples=30, deadline=None)
@given(case=cases(), fallback=st.booleans(), dtype=st.sampled_from(sorted(DTYPES)))
def test_rows_of_other_pairs_are_never_touched(path, case, fallback, dtype):
    generator = torch.Generator().manual_seed(0)
    bank = case.bank(dtype)
    for maps in (bank.maps_RSS, bank.last_RSS):
        maps.copy_(torch.randint(0, 256, maps.shape, generator=generator) / 1.0)
    bank.accepted_R[:] = 3
    before = copy_bank(bank)
    for seen in case.steps:
        half = slice(0, None, 2)
        pairs = Pairs(seen.pairs.image_P[half], seen.pairs.class_P[half], seen.pairs.row_P[half])
        seen.pairs = pairs
        update(bank, seen, Rules(gate="none", fallback=fallback), path)
    others = torch.ones(case.rows, dtype=torch.bool)
    others[case.steps[0].pairs.row_P] = False
    assert others.sum() >= 2
    for name, tensor in bank.tensors().items():
        assert torch.equal(bits(tensor[others]), bits(getattr(before, name)[others])), name


@both_paths
def test_without_pairs_nothing_happens(path):
    seen = single(random_feature(0))
    seen.pairs = Pairs.from_labels(torch.zeros(1, 2, dtype=torch.uint8), torch.tensor([0]))
    bank = MapBank.empty(2, 4, torch.uint8)
    outcome = update(bank, seen, Rules(), path)
    assert len(outcome.accepted_P) == len(outcome.fallback_P) == len(outcome.broken_P) == 0
    assert_same_bits(bank, MapBank.empty(2, 4, torch.uint8))


@both_paths
def test_a_rejected_pair_is_left_alone(path):
    bank = accumulated([single(random_feature(0))], path=path)
    bank.dirty_R.zero_()
    before = copy_bank(bank)
    outcome = update(bank, single(random_feature(1), score=-1.0), Rules(), path)
    assert outcome.accepted_P.tolist() == outcome.fallback_P.tolist() == [False]
    assert_same_bits(bank, before)


@both_paths
@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("fallback", [False, True])
def test_a_broken_map_is_reported_and_left_alone(path, value, fallback):
    feature = random_feature(0)
    feature[3, 4] = value
    bank = MapBank.empty(2, 8, torch.uint8)
    rules = Rules(gate="none", fallback=fallback)
    outcome = update(bank, single(feature), rules, path)
    assert outcome.broken_P.tolist() == [True]
    assert outcome.accepted_P.tolist() == outcome.fallback_P.tolist() == [False]
    assert_same_bits(bank, MapBank.empty(2, 8, torch.uint8))


@both_paths
def test_nan_logits_are_rejected_but_may_fall_back(path):
    seen = single(random_feature(0), score=NAN)
    for gate in ("strict", "topk", "prob"):
        bank = MapBank.empty(2, 8, torch.uint8)
        outcome = update(bank, seen, Rules(gate=gate, fallback=True), path)
        assert outcome.fallback_P.tolist() == [True]
        assert bank.fallback_R.tolist() == [True, False]
        assert bank.maps_RSS[0].any()


@both_paths
@pytest.mark.parametrize("fusion", ["max", "average"])
def test_a_fallback_is_replaced_by_the_first_accepted_update(path, fusion):
    """Fallback, better fallback, accepted, then a late fallback that must not count."""
    lost, lost_again, won, late = (single(random_feature(s), score=-1.0) for s in range(4))
    won.logits_BC[0, 0] = 1.0
    bank = MapBank.empty(2, 8, torch.float32)
    last_epoch = Rules(fusion=fusion, fallback=True)

    assert update(bank, lost, last_epoch, path).fallback_P.tolist() == [True]
    alone = accumulated([lost], dtype=torch.float32, gate="none").maps_RSS
    assert torch.equal(bank.maps_RSS, alone)
    assert bank.accepted_R.tolist() == [0, 0]
    assert bank.fallback_R.tolist() == [True, False]
    assert bank.dirty_R.tolist() == [True, False]
    assert not bank.last_RSS.any()  # the drop layer knows accepted attention only

    update(bank, lost_again, last_epoch, path)
    alone = accumulated([lost_again], dtype=torch.float32, gate="none").maps_RSS
    assert torch.equal(bank.maps_RSS, alone)

    outcome = update(bank, won, last_epoch, path)
    assert outcome.accepted_P.tolist() == [True]
    assert outcome.fallback_P.tolist() == [False]
    alone = accumulated([won], dtype=torch.float32).maps_RSS
    assert torch.equal(bank.maps_RSS, alone)
    assert torch.equal(bank.last_RSS, alone)
    assert bank.accepted_R.tolist() == [1, 0]
    assert bank.fallback_R.tolist() == [False, False]

    before = copy_bank(bank)
    assert update(bank, late, last_epoch, path).fallback_P.tolist() == [False]
    assert_same_bits(bank, before)


@both_paths
def test_last_is_the_attention_of_the_last_accepted_update(path):
    steps = [single(random_feature(s)) for s in range(3)]
    steps.append(single(random_feature(3), score=-1.0))
    bank = accumulated(steps, path=path)
    alone = accumulated([steps[2]], path=path)
    assert torch.equal(bank.last_RSS, alone.maps_RSS)
    assert not torch.equal(bank.last_RSS, bank.maps_RSS)


@both_paths
def test_the_observation_is_not_modified(path):
    seen = single(random_feature(0))
    before = seen.cam_BCHW.clone()
    seen.cam_BCHW.requires_grad_()
    bank = accumulated([seen], path=path)
    assert torch.equal(seen.cam_BCHW, before)
    assert not bank.maps_RSS.requires_grad


@both_paths
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cam_BCHW", torch.zeros(2, 3, 3)),
        ("logits_BC", torch.zeros(1, 3)),
        ("labels_BC", torch.zeros(2, 2, dtype=torch.uint8)),
        ("geometry_B23", torch.zeros(1, 3, 3)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(path, field, value):
    seen = single(random_feature(0))
    setattr(seen, field, value)
    with pytest.raises(AssertionError):
        update(MapBank.empty(2, 4, torch.uint8), seen, Rules(), path)


def test_attention_reads_the_stored_format():
    bank = MapBank.empty(3, 2, torch.uint8)
    bank.maps_RSS[2] = torch.tensor([[0, 51], [102, 255]])
    values = bank.attention(torch.tensor([2]))
    torch.testing.assert_close(values, torch.tensor([[[0.0, 0.2], [0.4, 1.0]]]))
    assert bank.map_size == 2


def test_the_contest_gate_takes_cells_before_attention_is_normalised():
    # Class 0 has most of the first cell, which class 1 therefore loses with its peak; what is left
    # of class 1 becomes the whole of its attention.
    cam_BCHW = torch.tensor([[[[8.0, 0.0]], [[3.0, 2.0]]]])
    seen = single(torch.ones(1, 2))
    seen = replace(
        seen,
        cam_BCHW=cam_BCHW,
        logits_BC=torch.tensor([[1.0, 1.0]]),
        labels_BC=torch.ones(1, 2, dtype=torch.uint8),
        pairs=Pairs(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([0, 1])),
    )
    plain, contested = (MapBank.empty(2, 2, torch.float32) for _ in range(2))
    update(plain, seen, Rules("strict"))
    update(contested, seen, Rules("contest", rho=0.5))
    assert torch.equal(plain.maps_RSS[0], contested.maps_RSS[0])
    torch.testing.assert_close(plain.maps_RSS[1, 0], torch.tensor([1.0, 2 / 3]))
    assert contested.maps_RSS[1, 0].tolist() == [0.0, 1.0]
