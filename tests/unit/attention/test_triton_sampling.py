"""The device functions below the Triton kernel, each alone, in Triton's interpreter."""

import math
import os

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from cases import GEOMETRIES, single
from dist_oaa.attention import reference, triton_kernel
from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Rules
from dist_oaa.attention.triton_sampling import between, centres, reaches_beyond, reciprocal

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1",
    reason="not in Triton's interpreter: tests/gpu holds the compiled kernel",
)


def test_reciprocals_divide_exactly_for_every_size():
    for size in range(1, 1025):
        high, low = (np.float32(part) for part in reciprocal(size))
        half = np.arange(size, dtype=np.float32) + np.float32(0.5)
        assert np.array_equal(half * high + half * low, half / np.float32(size)), size


@triton.jit
def _store_centres(out_ptr, SIZE: tl.constexpr, HIGH: tl.constexpr, LOW: tl.constexpr,
                   BLOCK: tl.constexpr):  # fmt: skip
    q = tl.arange(0, BLOCK)
    u, v = centres(q, SIZE, HIGH, LOW)
    tl.store(out_ptr + q, u, mask=q < SIZE * SIZE)
    tl.store(out_ptr + SIZE * SIZE + q, v, mask=q < SIZE * SIZE)


@pytest.mark.parametrize("sizes", [range(1, 66), (127, 243, 500, 729, 1000), (1021, 1023, 1024)])
def test_cells_have_the_centres_of_the_reference(sizes):
    for size in sizes:
        out_2SS = torch.full((2, size, size), torch.nan)
        _store_centres[(1,)](out_2SS, size, *reciprocal(size), triton.next_power_of_2(size * size))
        centres_S = reference.cell_centres(size, torch.device("cpu"))
        assert torch.equal(out_2SS[0], centres_S.expand(size, size)), size
        assert torch.equal(out_2SS[1], centres_S[:, None].expand(size, size)), size


@triton.jit
def _store_beyond(out_ptr, row_ptr, SIZE: tl.constexpr):
    a, b, c = tl.load(row_ptr), tl.load(row_ptr + 1), tl.load(row_ptr + 2)
    tl.store(out_ptr, reaches_beyond(a, b, c, SIZE))


# Near the edges on purpose: shifts that put the first or the last cell on 0 or 1, or beside it.
numbers = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0, float("nan"), float("inf")]),
    st.floats(-2, 2, width=32),
)
nudges = st.sampled_from([0.0, 6e-8, -6e-8, 1.2e-7, -1.2e-7, 0.1, -0.1])


@settings(max_examples=200, deadline=None)
@given(a=numbers, b=numbers, c=numbers, edge=st.sampled_from([None, 0, 1]), nudge=nudges,
       size=st.sampled_from([1, 2, 7, 41]))  # fmt: skip
def test_the_outermost_cells_tell_whether_a_map_reaches_beyond_the_input(
    a, b, c, edge, nudge, size
):
    centres_S = reference.cell_centres(size, torch.device("cpu"))
    along_SS = torch.tensor(a) * centres_S + torch.tensor(b) * centres_S[:, None]
    if edge is not None and along_SS.isfinite().all():
        c = float(edge - (along_SS.min() if edge == 0 else along_SS.max())) + nudge
    row = torch.tensor([a, b, c])
    place_SS = row[0] * centres_S + row[1] * centres_S[:, None] + row[2]
    beyond = torch.zeros(1, dtype=torch.bool)
    _store_beyond[(1,)](beyond, row, size)
    assert bool(beyond) == bool(~((place_SS >= 0) & (place_SS <= 1)).all())


@triton.jit
def _store_between(out_ptr, place_ptr, cells, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    before, weight = between(tl.load(place_ptr + i), cells)
    tl.store(out_ptr + i, before)
    tl.store(out_ptr + BLOCK + i, weight)


@pytest.mark.parametrize("cells", [1, 2, 3, 7, 41, 1000])
def test_neighbours_stay_within_the_valid_cells(cells):
    """What lies beyond may belong to nobody: a zero weight does not excuse reading it."""
    places = [*np.linspace(0, 1, 1013), 1.0, -math.inf, -3.0, 1 + 1e-7, 40.0, math.inf, math.nan]
    place_N = torch.tensor(places, dtype=torch.float32)
    place_N = torch.cat([place_N, torch.zeros(1024 - len(place_N))])
    out_2N = torch.full((2, 1024), torch.nan)
    _store_between[(1,)](out_2N, place_N, cells, 1024)
    before_N, weight_N = out_2N
    assert 0 <= before_N.min() <= before_N.max() <= max(cells - 2, 0)
    wanted_N = (place_N * cells - 0.5).clamp(0, cells - 1).nan_to_num(0)
    assert torch.equal(before_N + weight_N, wanted_N)
    assert 0 <= weight_N.min() <= weight_N.max() <= 1


def exact(feature_hw: torch.Tensor, geometry_23: np.ndarray, size: int) -> np.ndarray:
    """Attention at the cells in float64, by another library; NaN where float32 may decide."""
    values = np.maximum(feature_hw.double().numpy(), 0)
    values /= values.max()
    v, u = (np.mgrid[:size, :size] + 0.5) / size
    x, y = (row[0] * u + row[1] * v + row[2] for row in np.float32(geometry_23).astype(np.float64))
    places = [y * values.shape[0] - 0.5, x * values.shape[1] - 0.5]
    sampled = map_coordinates(values, places, order=1, mode="nearest")
    sampled[(np.minimum(x, y) < 1e-6) | (np.maximum(x, y) > 1 - 1e-6)] = np.nan
    return sampled


@pytest.mark.parametrize("width", [7, 41, 333, 2000])
def test_the_error_against_float64_is_that_of_the_position(width):
    """x * width - 0.5 cancels: what is left of the place within a cell has lost log2(width) bits.

    x = g u + shift with |g| < 2.8 and x in [0, 1]: in units of 2^-24 the roundings of u, of the
    product, of the sum and of the position move it by 1.4 + 2 + 0.5 + 1.5 of the width, in
    cells. Attention changes by at most one a cell.
    """
    errors, steps, cells = [], 0, 0
    for seed, name in enumerate(["identity", "flip", "crop", "crop and flip", "zoomed out"] * 2):
        geometry_23 = GEOMETRIES[name]
        generator = torch.Generator().manual_seed(seed)
        feature = torch.randint(-3, 4, (3, width), generator=generator).float()  # steep
        expected = exact(feature, geometry_23, 41)
        known = ~np.isnan(expected)
        banks = {dtype: MapBank.empty(1, 41, dtype) for dtype in (torch.float32, torch.uint8)}
        for bank in banks.values():
            triton_kernel.update(bank, single(feature, geometry_23), Rules())
        found = banks[torch.float32].maps_RSS[0].double().numpy()
        errors.append(np.abs(found - expected)[known].max())
        rounded = np.rint(255 * expected[known])
        stored = banks[torch.uint8].maps_RSS[0].numpy()[known]
        assert np.abs(stored - rounded).max() <= 1
        steps, cells = steps + int((stored != rounded).sum()), cells + int(known.sum())
    bound = 6 * width * 2**-24 + 2**-22
    print(f"width {width}: error {max(errors):.1e} of {bound:.1e}; {steps} of {cells} cells differ")
    assert 0 < max(errors) <= bound
    # A cell of uint8 differs where the exact value lies this near to the middle of two steps.
    assert steps <= 3 + 2 * 255 * bound * cells
