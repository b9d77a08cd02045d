"""Targets at feature cells: by hand, against plain loops, and through any geometry."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import GEOMETRIES
from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Pairs
from dist_oaa.attention.targets import TargetMaps, resident_targets
from dist_oaa.data.geometry import HORIZONTAL_FLIP_23, IDENTITY_23, crop_23, inverse
from oracle import EDGE, bilinear, place


def geometries(*matrices) -> torch.Tensor:
    return torch.from_numpy(np.stack(matrices)).float()


def labels(*rows: tuple[int, ...], classes: int = 3) -> torch.Tensor:
    labels_BC = torch.zeros(len(rows), classes, dtype=torch.uint8)
    for b, row in enumerate(rows):
        labels_BC[b, list(row)] = 1
    return labels_BC


def held(maps: dict, classes: list[tuple[int, ...]], size: int, dtype=torch.uint8) -> TargetMaps:
    """All images are this rank's; maps by (image, class)."""
    targets = TargetMaps(classes, np.ones(len(classes), bool), size, dtype)
    targets.load((n, c, map_SS) for (n, c), map_SS in maps.items())
    return targets


def test_by_hand():
    # Image 0 has classes 0 and 2. The map of class 2 is 100 at its largest: that becomes 1.
    map_SS = np.array([[0, 100], [50, 25]], np.uint8)
    targets = held({(0, 2): map_SS, (0, 0): np.full((2, 2), 7, np.uint8)}, [(0, 2)], 2)
    found = targets.at(
        torch.tensor([0]),
        labels((0, 2)),
        geometries(IDENTITY_23),
        torch.tensor([[2, 2]]),
        (2, 3),  # a column of padding
    )
    assert found.value_BCHW[0, 2, :, :2].tolist() == [[0, 1], [0.5, 0.25]]
    assert found.value_BCHW[0, 0, :, :2].tolist() == [[1, 1], [1, 1]]
    assert not found.value_BCHW[0, 1].any()
    assert found.counted_BCHW.tolist() == [[[[True, True, False]] * 2] * 3]


def test_a_class_without_a_map_is_left_out_and_an_absent_one_is_not():
    zero, some = np.zeros((2, 2), np.uint8), np.full((2, 2), 9, np.uint8)
    targets = held({(0, 0): some, (0, 1): zero}, [(0, 1), (1, 2)], 2)
    assert targets.unknown == 3
    found = targets.at(
        torch.tensor([0, 1]),
        labels((0, 1), (1, 2)),
        geometries(IDENTITY_23, IDENTITY_23),
        torch.tensor([[1, 1]] * 2),
        (1, 1),
    )
    assert found.counted_BCHW[:, :, 0, 0].tolist() == [[True, False, True], [True, False, False]]
    assert found.value_BCHW[:, :, 0, 0].tolist() == [[1, 0, 0], [0, 0, 0]]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    names=st.lists(st.sampled_from(sorted(GEOMETRIES)), min_size=1, max_size=3),
    size=st.sampled_from([1, 2, 5, 9]),
    dtype=st.sampled_from(["uint8", "float32"]),
)
def test_against_plain_loops(seed, names, size, dtype):
    rng = np.random.default_rng(seed)
    images, shape = 5, (4, 6)
    classes = [tuple(np.flatnonzero(rng.random(3) < 0.5).tolist()) for _ in range(images)]
    maps = {}
    for pair in [(n, c) for n in range(images) for c in classes[n] if rng.random() < 0.8]:
        values = rng.random((size, size)) * rng.choice([0.3, 1.0])
        maps[pair] = (255 * values).astype("uint8") if dtype == "uint8" else values.astype(dtype)
    targets = held(maps, classes, size, getattr(torch, dtype))
    index = rng.permutation(images)[: len(names)]
    cells = [[int(rng.integers(1, side + 1)) for side in shape] for _ in names]
    found = targets.at(
        torch.from_numpy(index),
        labels(*(classes[n] for n in index)),
        geometries(*(GEOMETRIES[name] for name in names)),
        torch.tensor(cells),
        shape,
    )
    for b, (n, name) in enumerate(zip(index.tolist(), names, strict=True)):
        back = inverse(GEOMETRIES[name])
        for i, j in np.ndindex(shape):
            u, v = place(back, (j + 0.5) / cells[b][1], (i + 0.5) / cells[b][0])
            if min(abs(u), abs(u - 1), abs(v), abs(v - 1)) < EDGE:
                continue  # float32 may put it on either side of the image's edge
            seen = i < cells[b][0] and j < cells[b][1] and 0 <= u <= 1 and 0 <= v <= 1
            for c in range(3):
                map_SS = maps.get((n, c), np.zeros((1, 1))).astype(float)
                known = c not in classes[n] or map_SS.max() > 0
                assert found.counted_BCHW[b, c, i, j] == (seen and known)
                if seen and known and c in classes[n]:
                    expected = bilinear((map_SS / map_SS.max()).tolist(), u, v)
                    assert float(found.value_BCHW[b, c, i, j]) == pytest.approx(expected, abs=2e-5)
                elif c not in classes[n]:
                    assert found.value_BCHW[b, c, i, j] == 0


def blob(size: int, x: float, y: float) -> np.ndarray:
    centres = (np.arange(size) + 0.5) / size
    distance = (centres[None] - x) ** 2 + (centres[:, None] - y) ** 2
    return (255 * np.exp(-distance / 0.05)).astype(np.uint8)


def test_the_targets_of_a_flipped_input_are_the_flipped_targets():
    targets = held({(0, 0): blob(41, 0.3, 0.6)}, [(0,)], 41)
    plain, flipped = (
        targets.at(
            torch.tensor([0]), labels((0,)), geometries(g), torch.tensor([[14, 20]]), (14, 20)
        ).value_BCHW[0, 0]
        for g in (IDENTITY_23, HORIZONTAL_FLIP_23)
    )
    assert plain[8, 5] > 0.9
    assert flipped[8, 5] < 0.4
    torch.testing.assert_close(flipped, plain.flip(1), atol=1e-5, rtol=0)


def test_a_crop_sees_its_part_of_the_map():
    """The left half at twice the density: two of its cells side by side make one of the whole."""
    targets = held({(0, 0): blob(41, 0.3, 0.6)}, [(0,)], 41)
    whole, left = (
        targets.at(
            torch.tensor([0]), labels((0,)), geometries(g), torch.tensor([[16, 16]]), (16, 16)
        ).value_BCHW[0, 0]
        for g in (IDENTITY_23, crop_23(0, 0, 0.5, 1))
    )
    torch.testing.assert_close(left.unfold(1, 2, 2).mean(2), whole[:, :8], atol=0.02, rtol=0)


def test_only_the_images_of_this_rank_are_held():
    targets = TargetMaps([(0,), (0, 1), (2,)], np.array([False, True, False]), 2)
    some = np.full((2, 2), 9, np.uint8)
    targets.load([(0, 0, some), (1, 1, some), (2, 2, some)])
    assert targets.maps_RSS.shape == (2, 2, 2)
    assert targets.scale_R.tolist() == pytest.approx([0, 1 / 9])
    with pytest.raises(AssertionError, match="another rank"):
        targets.at(
            torch.tensor([0]), labels((0,)), geometries(IDENTITY_23), torch.tensor([[1, 1]]), (1, 1)
        )


def test_a_rank_without_an_image():
    targets = TargetMaps([(0,)], np.array([False]), 3)
    targets.load([])
    assert targets.unknown == 0


def test_maps_too_faint_to_be_scaled_count_as_none():
    targets = held({(0, 0): np.full((2, 2), 1e-42, np.float32)}, [(0,)], 2, torch.float32)
    assert targets.scale_R.tolist() == [0]


def bank_of(maps: dict, rows: dict, size: int, dtype=torch.uint8) -> MapBank:
    """A bank whose row rows[pair] holds maps[pair]; A_{t-1} and free rows hold something else."""
    bank = MapBank.empty(len(rows) + 2, size, dtype)
    bank.grid_R2Q.random_(0, 2)
    for pair, row in rows.items():
        bank.maps_RSS[row] = torch.from_numpy(maps[pair])
    return bank


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    names=st.lists(st.sampled_from(sorted(GEOMETRIES)), min_size=1, max_size=3),
    dtype=st.sampled_from(["uint8", "float16", "float32"]),
)
def test_resident_maps_teach_what_the_same_maps_of_an_earlier_run_would(seed, names, dtype):
    rng = np.random.default_rng(seed)
    images, size, shape = len(names), 5, (4, 6)
    classes = [tuple(np.flatnonzero(rng.random(3) < 0.6).tolist()) for _ in range(images)]
    pairs = [(n, c) for n in range(images) for c in classes[n]]
    maps = {pair: rng.random((size, size)) * rng.choice([0.0, 0.4, 1.0]) for pair in pairs}
    top = 255 if dtype == "uint8" else 1
    maps = {pair: (top * values).astype(dtype) for pair, values in maps.items()}
    cells_B2 = torch.from_numpy(rng.integers(1, 5, (images, 2)))
    seen = (geometries(*(GEOMETRIES[name] for name in names)), cells_B2, shape)
    labels_BC = labels(*classes)
    earlier = held(maps, classes, size, getattr(torch, dtype))
    expected = earlier.at(torch.arange(images), labels_BC, *seen)
    free = iter(rng.permutation(len(pairs) + 2).tolist())
    rows = {pair: next(free) for pair in pairs}
    bank = bank_of(maps, rows, size, getattr(torch, dtype))
    before = bank.grid_R2Q.clone()
    image_P, class_P = labels_BC.nonzero(as_tuple=True)
    row_P = torch.tensor([rows[pair] for pair in pairs], dtype=torch.int64)
    found = resident_targets(bank, Pairs(image_P, class_P, row_P), 3, *seen)
    assert torch.equal(found.counted_BCHW, expected.counted_BCHW)
    torch.testing.assert_close(found.value_BCHW, expected.value_BCHW, rtol=0, atol=0)
    assert torch.equal(bank.grid_R2Q, before)
    assert not bank.dirty_R.any()


def test_a_map_that_changes_is_seen_as_it_stands():
    bank = MapBank.empty(1, 2, torch.uint8)
    pairs = Pairs(*(torch.tensor([0]) for _ in range(3)))
    seen = (geometries(IDENTITY_23), torch.tensor([[2, 2]]), (2, 2))
    assert not resident_targets(bank, pairs, 2, *seen).counted_BCHW[0, 0].any()
    bank.maps_RSS[0] = torch.tensor([[0, 100], [50, 25]])
    found = resident_targets(bank, pairs, 2, *seen)
    assert found.counted_BCHW.all()
    assert found.value_BCHW[0].tolist() == [[[0, 1], [0.5, 0.25]], [[0, 0], [0, 0]]]
