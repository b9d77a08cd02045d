"""Boxes from maps: hand-worked examples, scipy's components, and IoU counted pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from dist_oaa.evaluation.boxes import (
    above,
    best_iou,
    component_boxes,
    overlaps,
    single_box,
)


def scipy_components(mask_HW: np.ndarray) -> list[tuple[int, tuple[int, ...]]]:
    """(pixels, box) of each component."""
    label_HW, count = ndimage.label(mask_HW, np.ones((3, 3)))
    slices = ndimage.find_objects(label_HW)
    return [
        (
            int((label_HW == k + 1).sum()),
            (slices[k][1].start, slices[k][0].start, slices[k][1].stop, slices[k][0].stop),
        )
        for k in range(count)
    ]


def pixels_of(box: tuple[int, ...], shape: tuple[int, int]) -> np.ndarray:
    painted_HW = np.zeros(shape, dtype=bool)
    x0, y0, x1, y1 = (int(edge) for edge in box)
    painted_HW[y0:y1, x0:x1] = True
    return painted_HW


def counted_iou(one: tuple[int, ...], other: tuple[int, ...], shape: tuple[int, int]) -> float:
    """Of boxes with whole edges: painted and counted."""
    a_HW, b_HW = pixels_of(one, shape), pixels_of(other, shape)
    return float((a_HW & b_HW).sum() / (a_HW | b_HW).sum())


def test_tight_boxes_by_hand():
    mask_HW = np.array(
        [
            [0, 1, 0, 0, 0, 1],
            [0, 1, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0],
            [0, 0, 0, 0, 1, 1],
        ]
    )
    # Three pixels that touch at a corner, then two, then one.
    boxes_K4 = component_boxes(mask_HW)
    assert boxes_K4.tolist() == [[1, 0, 3, 3], [4, 3, 6, 4], [5, 0, 6, 1]]
    assert single_box(boxes_K4, "largest").tolist() == [1, 0, 3, 3]
    assert single_box(boxes_K4, "all").tolist() == [1, 0, 6, 4]


def test_a_component_within_a_hole_of_another():
    mask_HW = np.ones((7, 9), dtype=bool)
    mask_HW[1:6, 1:8] = False
    mask_HW[2:5, 2:7] = True
    mask_HW[3, 3:6] = False
    # The frame has 28 pixels, the ring within 12.
    assert component_boxes(mask_HW).tolist() == [[0, 0, 9, 7], [2, 2, 7, 5]]


def test_the_largest_is_that_of_most_pixels_not_of_the_largest_box():
    mask_HW = np.zeros((12, 12), dtype=bool)
    np.fill_diagonal(mask_HW[:8, :8], True)
    mask_HW[9:12, 0:4] = True
    assert component_boxes(mask_HW).tolist() == [[0, 9, 4, 12], [0, 0, 8, 8]]


def test_nothing():
    assert component_boxes(np.zeros((3, 4), dtype=bool)).shape == (0, 4)
    assert single_box(np.empty((0, 4)), "largest") is None
    assert not above(np.zeros((3, 4), np.float32), 0.0).any()
    assert not above(np.full((3, 4), -1, np.float32), 0.5).any()
    with pytest.raises(ValueError, match="finite"):
        above(np.array([[1.0, np.nan]], np.float32), 0.5)


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
@settings(max_examples=300, deadline=None)
def test_components_are_scipys(mask_HW):
    expected = sorted(scipy_components(mask_HW), key=lambda c: (-c[0], c[1][1], c[1][0]))
    assert [tuple(box) for box in component_boxes(mask_HW)] == [box for _, box in expected]


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(2, 9), st.integers(2, 9)),
        elements=st.floats(0, 1, width=32),
    ),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["largest", "all"]),
)
@settings(max_examples=100, deadline=None)
def test_overlaps_against_painted_boxes(map_HW, seed, components):
    rng = np.random.default_rng(seed)
    height, width = map_HW.shape
    truth = []
    for _ in range(rng.integers(1, 4)):
        x0, y0 = rng.integers(0, width), rng.integers(0, height)
        truth.append((x0, y0, rng.integers(x0, width) + 1, rng.integers(y0, height) + 1))
    thresholds_T = np.array([0.0, 0.25, 0.6, 0.9])
    found = overlaps(map_HW, np.array(truth, float), thresholds_T, components)
    for t, threshold in enumerate(thresholds_T):
        mask_HW = map_HW > np.float32(threshold) * map_HW.max()
        parts = sorted(scipy_components(mask_HW), key=lambda c: (-c[0], c[1][1], c[1][0]))
        if not parts:
            assert (found.single_T[t], found.largest_T[t], found.best_T[t]) == (0, 0, 0)
            continue
        iou = [max(counted_iou(box, other, map_HW.shape) for other in truth) for _, box in parts]
        rows, columns = np.nonzero(mask_HW)
        around = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        whole = max(counted_iou(around, other, map_HW.shape) for other in truth)
        assert found.largest_T[t] == pytest.approx(iou[0])
        assert found.best_T[t] == pytest.approx(max(iou))
        assert found.single_T[t] == pytest.approx(iou[0] if components == "largest" else whole)


def test_iou_of_fractions_by_hand():
    # 2 x 2 and 2.5 x 2, shifted by half a pixel: 1.5 x 2 shared, of 4 + 5 - 3.
    assert best_iou([(0, 0, 2, 2)], [(0.5, 0, 3, 2)]) == pytest.approx(3 / 6)
    assert best_iou([(0, 0, 1, 1)], [(1, 0, 2, 1)]) == 0
    assert best_iou([], [(0, 0, 1, 1)]) == 0
