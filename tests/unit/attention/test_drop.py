"""Where the drop layer occludes: against plain loops, by hand, and through any geometry."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import GEOMETRIES
from dist_oaa.attention.bank import DTYPES, MapBank, full_scale
from dist_oaa.attention.batch import Pairs
from dist_oaa.attention.drop import occlusion
from dist_oaa.attention.places import places
from dist_oaa.data.geometry import HORIZONTAL_FLIP_23, IDENTITY_23, crop_23, inverse, then
from oracle import bilinear, place

ON = torch.tensor([True])


def bank_of(maps_PSS: np.ndarray, dtype: str = "uint8") -> MapBank:
    """A bank whose last attention is given, 0 to 1."""
    bank = MapBank.empty(len(maps_PSS), maps_PSS.shape[-1], DTYPES[dtype])
    scaled = torch.from_numpy(maps_PSS) * full_scale(bank.dtype)
    bank.last_RSS.copy_(scaled.round() if dtype == "uint8" else scaled)
    return bank


def pairs_of(images: list[int]) -> Pairs:
    """Row k of the bank belongs to image images[k]."""
    order = torch.arange(len(images))
    return Pairs(torch.tensor(images, dtype=torch.int64), order, order)


def geometries(*matrices) -> torch.Tensor:
    return torch.from_numpy(np.stack(matrices)).float()


def test_by_hand():
    # 2 x 2 cells seen at 4 x 4 pixels: pixel centres lie at 1/8, 3/8, 5/8, 7/8 and the cells' at
    # 1/4, 3/4, so that values go 0, 1/4, 3/4, 1 along each axis; the product exceeds 1/2 where it
    # is 9/16 or more.
    bank = bank_of(np.array([[[0.0, 0.0], [0.0, 1.0]]]), "float32")
    mask_BHW = occlusion(
        bank, pairs_of([0]), ON, geometries(IDENTITY_23), torch.tensor([[4, 4]]), (5, 6), 0.5
    )
    expected = torch.zeros(1, 5, 6, dtype=torch.bool)
    expected[0, 2:4, 2:4] = True
    assert mask_BHW.tolist() == expected.tolist()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    names=st.lists(st.sampled_from(sorted(GEOMETRIES)), min_size=1, max_size=3),
    size=st.sampled_from([1, 2, 5, 9]),
    delta=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    dtype=st.sampled_from(sorted(DTYPES)),
)
def test_against_plain_loops(seed, names, size, delta, dtype):
    rng = np.random.default_rng(seed)
    owners = sorted(rng.integers(0, len(names), rng.integers(0, 5)).tolist())
    bank = bank_of(rng.random((max(1, len(owners)), size, size)), dtype)
    chosen = rng.random(len(names)) < 0.7
    extent = rng.integers(1, 8, (len(names), 2))
    mask_BHW = occlusion(
        bank,
        pairs_of(owners),
        torch.from_numpy(chosen),
        geometries(*(GEOMETRIES[name] for name in names)),
        torch.from_numpy(extent),
        (7, 7),
        delta,
    )
    scale = full_scale(bank.dtype)
    for b, name in enumerate(names):
        rows = [k for k, owner in enumerate(owners) if owner == b]
        union = np.max([bank.last_RSS[k].double().numpy() / scale for k in rows] or
                       [np.zeros((size, size))], axis=0).tolist()  # fmt: skip
        back = inverse(GEOMETRIES[name]).tolist()
        for i in range(7):
            for j in range(7):
                if not chosen[b] or i >= extent[b][0] or j >= extent[b][1]:
                    assert not mask_BHW[b, i, j]
                    continue
                u, v = place(back, (j + 0.5) / extent[b][1], (i + 0.5) / extent[b][0])
                value = bilinear(union, u, v)
                if abs(value - delta) > 1e-4:  # float32 may put it on either side
                    assert bool(mask_BHW[b, i, j]) == (value > delta), (name, i, j, value)


@given(seed=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_a_flipped_input_is_occluded_at_the_mirrored_places(seed):
    bank = bank_of(np.random.default_rng(seed).random((1, 8, 8)))
    extent = torch.tensor([[6, 10]])
    masks = [
        occlusion(bank, pairs_of([0]), ON, geometries(g), extent, (6, 10), 0.501)
        for g in (IDENTITY_23, HORIZONTAL_FLIP_23)
    ]
    assert masks[0].any()
    assert torch.equal(masks[1], masks[0].flip(2))


def test_a_crop_sees_its_part_of_the_mask():
    bank = bank_of(np.random.default_rng(1).random((1, 8, 8)))
    whole = occlusion(bank, pairs_of([0]), ON, geometries(IDENTITY_23),
                      torch.tensor([[16, 16]]), (16, 16), 0.501)  # fmt: skip
    crop = crop_23(4 / 16, 2 / 16, 8 / 16, 10 / 16)
    part = occlusion(bank, pairs_of([0]), ON, geometries(crop),
                     torch.tensor([[10, 8]]), (10, 8), 0.501)  # fmt: skip
    assert 0 < part.sum() < 80
    assert torch.equal(part[0], whole[0, 2:12, 4:12])


def test_delta_zero_takes_all_that_was_attended_and_one_takes_nothing():
    maps = np.random.default_rng(0).random((1, 6, 6)) * (np.arange(6) > 2)
    bank = bank_of(maps)
    extent, shape = torch.tensor([[6, 6]]), (6, 6)
    everything = occlusion(bank, pairs_of([0]), ON, geometries(IDENTITY_23), extent, shape, 0.0)
    assert torch.equal(everything[0], bank.last_RSS[0] > 0)
    assert not occlusion(bank, pairs_of([0]), ON, geometries(IDENTITY_23), extent, shape, 1.0).any()


def test_an_image_is_occluded_alike_in_any_batch():
    """A rank, or a padded batch, sees the same image occluded at the same pixels, to the last."""
    rng = np.random.default_rng(3)
    bank = bank_of(rng.random((5, 41, 41)))
    owners, extent = [0, 0, 1, 2, 2], torch.tensor([[60, 80], [70, 50], [33, 91]])
    matrices = [then(crop_23(0.1, 0.2, 0.7, 0.6), HORIZONTAL_FLIP_23), IDENTITY_23,
                HORIZONTAL_FLIP_23]  # fmt: skip
    together = occlusion(bank, pairs_of(owners), torch.ones(3, dtype=torch.bool),
                         geometries(*matrices), extent, (96, 96), 0.6)  # fmt: skip
    for b in range(3):
        rows = torch.tensor([k for k, owner in enumerate(owners) if owner == b])
        alone = Pairs(torch.zeros(len(rows), dtype=torch.int64), rows, rows)
        height, width = extent[b].tolist()
        mask = occlusion(bank, alone, ON, geometries(matrices[b]), extent[b : b + 1],
                         (height, width), 0.6)  # fmt: skip
        assert mask.any()
        assert torch.equal(mask[0], together[b, :height, :width])


def test_without_pairs_nothing_is_occluded():
    bank = bank_of(np.ones((1, 4, 4)))
    none = pairs_of([])
    mask = occlusion(bank, none, ON, geometries(IDENTITY_23), torch.tensor([[3, 3]]), (3, 3), 0.0)
    assert not mask.any()


@pytest.mark.parametrize("name", sorted(GEOMETRIES))
def test_places_undo_the_geometry(name):
    geometry_B23 = geometries(GEOMETRIES[name])
    uv = places(geometry_B23, torch.tensor([[4, 5]]), (4, 5))[0].double().numpy()
    for i in range(4):
        for j in range(5):
            x, y = place(GEOMETRIES[name].tolist(), *uv[i, j])
            assert (x, y) == pytest.approx(((j + 0.5) / 5, (i + 0.5) / 4), abs=1e-5)
