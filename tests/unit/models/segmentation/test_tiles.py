"""Where tiles lie and what they weigh."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.models.segmentation.tiles import ramp, tile_starts, tile_weight_HW


@given(
    multiple=st.sampled_from([1, 4, 8, 32]),
    cells=st.integers(1, 200),
    tile_cells=st.integers(2, 40),
    data=st.data(),
)
def test_tiles_cover_the_side_and_overlap(multiple, cells, tile_cells, data):
    length, tile = cells * multiple, tile_cells * multiple
    overlap = data.draw(st.integers(0, tile - multiple))
    starts = tile_starts(length, tile, overlap, multiple)
    assert starts[0] == 0
    assert all(start % multiple == 0 for start in starts)
    if length <= tile:
        assert starts == [0]
        return
    assert starts[-1] + tile == length
    steps = [b - a for a, b in pairwise(starts)]
    assert all(0 < step <= tile - overlap for step in steps)
    assert max(steps) - min(steps) <= multiple
    # No tile too many: with one fewer, some pair would overlap by less.
    step = (tile_cells - -(-overlap // multiple)) * multiple
    assert (len(starts) - 2) * step < length - tile


def test_an_example_by_hand():
    # 10 cells of 8, tiles of 4, overlap of at least 1 (5 pixels): 6 cells to go in steps of <= 3.
    assert tile_starts(80, 32, 5, 8) == [0, 24, 48]
    assert tile_starts(88, 32, 5, 8) == [0, 16, 32, 56]


def test_weights_fade_over_the_overlap():
    low, high = math.sin(math.pi / 8) ** 2, math.cos(math.pi / 8) ** 2
    assert ramp(8, 2).tolist() == pytest.approx([low, high, 1, 1, 1, 1, high, low])
    assert ramp(3, 0).tolist() == pytest.approx([0.5, 1, 0.5])
    weight = tile_weight_HW(4, 6, 4)
    torch.testing.assert_close(weight, ramp(4, 4)[:, None] * ramp(6, 4))
    assert weight.min() > 0


def test_two_neighbours_that_overlap_as_they_fade_sum_to_one():
    both = ramp(8, 4)[4:] + ramp(8, 4)[:4]
    torch.testing.assert_close(both, torch.ones(4))
