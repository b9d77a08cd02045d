"""Spreading maps over images, against a per-pixel bilinear formula and PyTorch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.evaluation.maps import own_maximum, resize_map


def naive_bilinear(map_SS: np.ndarray, height: int, width: int) -> np.ndarray:
    size = len(map_SS)
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * size / height - 0.5, 0), size - 1)
            u = min(max((x + 0.5) * size / width - 0.5, 0), size - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, size - 1), min(left + 1, size - 1)
            upper = map_SS[top, left] * (1 - u + left) + map_SS[top, right] * (u - left)
            lower = map_SS[bottom, left] * (1 - u + left) + map_SS[bottom, right] * (u - left)
            out[y, x] = upper * (1 - v + top) + lower * (v - top)
    return out


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 9),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    seed=st.integers(0, 999),
)
def test_resize_is_bilinear_with_half_pixel_centres(size, height, width, seed):
    map_SS = np.random.default_rng(seed).random((size, size), dtype=np.float32)
    got = resize_map(map_SS, height, width)
    assert got.shape == (height, width)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, naive_bilinear(map_SS, height, width), atol=2e-6)
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(map_SS)[None, None], (height, width), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(got, reference[0, 0].numpy(), atol=2e-6)


def test_resize_to_the_size_of_an_image_with_an_odd_aspect():
    map_SS = np.random.default_rng(1).random((41, 41), dtype=np.float32)
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(map_SS)[None, None], (375, 500), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(resize_map(map_SS, 375, 500), reference[0, 0].numpy(), atol=5e-6)


def test_resize_keeps_a_constant_exactly():
    for value in (0.0, 0.3, 1.0):
        got = resize_map(np.full((7, 7), value, np.float32), 50, 31)
        assert (got == np.float32(value)).all()


@pytest.mark.parametrize(
    ("map_SS", "height"),
    [
        (np.zeros((3, 4), np.float32), 5),
        (np.zeros((3, 3)), 5),
        (np.zeros((1, 3, 3), np.float32), 5),
        (np.zeros((3, 3), np.float32), 0),
    ],
)
def test_resize_refuses_what_is_no_map(map_SS, height):
    with pytest.raises(ValueError, match=r"map has|cannot spread"):
        resize_map(map_SS, height, 5)


def test_own_maximum():
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(
            own_maximum(np.array([[0, 0.25], [0.5, 0.125]])), [[0, 0.5], [1, 0.25]]
        )
        np.testing.assert_array_equal(own_maximum(np.zeros((2, 3))), np.zeros((2, 3)))
        np.testing.assert_array_equal(own_maximum(np.full((1, 1), -2.0)), [[0]])
        np.testing.assert_array_equal(own_maximum(np.full((1, 1), 1e-30)), [[1]])
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            own_maximum(np.array([[0.5, bad]]))
