"""Boundary F-score: a naive double loop, worked examples, and what ignored pixels do."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dist_oaa.evaluation.boundary import BoundaryScore

CLASSES = 3
LABELS = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, CLASSES)
)


def on_boundary(label: np.ndarray, y: int, x: int) -> bool:
    near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    height, width = label.shape
    return any(label[j, i] != label[y, x] for j, i in near if 0 <= j < height and 0 <= i < width)


def naive(prediction: np.ndarray, truth: np.ndarray, tolerance: float) -> np.ndarray:
    """Every pixel against every other."""
    reach = max(1.0, tolerance * math.hypot(*truth.shape))
    counts = np.zeros((CLASSES + 1, 4), np.int64)
    places = [
        {(y, x): int(label[y, x]) for y, x in np.ndindex(label.shape) if on_boundary(label, y, x)}
        for label in (prediction, truth)
    ]
    for side, (mine, other) in enumerate((places, places[::-1])):
        for (y, x), k in mine.items():
            hit = any(c == k and math.hypot(y - j, x - i) <= reach for (j, i), c in other.items())
            counts[k, 2 * side] += 1
            counts[k, 2 * side + 1] += hit
    return counts


def score(prediction, truth, tolerance=0.0075) -> BoundaryScore:
    measure = BoundaryScore(CLASSES, tolerance)
    measure.update(np.asarray(prediction, np.uint8), np.asarray(truth, np.uint8))
    return measure


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(0, 2**32 - 1), st.sampled_from([0.0075, 0.1, 0.23, 0.5]))
def test_equals_a_naive_loop(truth, seed, tolerance):
    rng = np.random.default_rng(seed)
    prediction = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, CLASSES + 1))
    expected = naive(prediction, truth, tolerance)
    np.testing.assert_array_equal(score(prediction, truth, tolerance).counts, expected)


def square(top: int, left: int, side: int = 20, size: int = 60, label: int = 1) -> np.ndarray:
    image = np.zeros((size, size), np.uint8)
    image[top : top + side, left : left + side] = label
    return image


def test_a_worked_example():
    # Squares of 20 pixels, one two pixels to the right; the boundary of each has 76 pixels.
    result = score(square(20, 22), square(20, 20), 1.5 / math.hypot(60, 60)).result()
    # Upper and lower edge: 18 of 20 pixels coincide and one more is a pixel away. The left edge is
    # two pixels away but for its ends, which are a pixel below or above the other's horizontal
    # edges; the right edge is two pixels away from everything.
    precision = (2 * 19 + 2) / 76
    assert result.per_class[1] == pytest.approx((precision, precision, precision))
    wider = score(square(20, 22), square(20, 20), 2 / math.hypot(60, 60)).result()
    assert wider.per_class[1] == (1, 1, 1)


def test_precision_and_recall_are_told_apart():
    truth = square(5, 5) | square(35, 35)
    result = score(square(5, 5), truth).result()
    assert result.per_class[1] == (1, 0.5, pytest.approx(2 / 3))
    assert score(truth, square(5, 5)).result().per_class[1][:2] == (0.5, 1)


def test_a_class_in_one_of_the_two_counts_as_zero_and_one_in_neither_is_left_out():
    result = score(square(20, 20, label=2), square(20, 20, label=1)).result()
    assert result.per_class.keys() == {0, 1, 2}
    assert result.per_class[0][2] == 1
    assert result.per_class[1][1:] == (0, 0)
    assert math.isnan(result.per_class[1][0])
    assert result.per_class[2][0] == 0
    assert math.isnan(result.per_class[2][1])
    assert result.f == pytest.approx(1 / 3)


@settings(max_examples=40, deadline=None)
@given(LABELS, LABELS)
def test_a_label_image_matches_itself_and_sides_swap(one, other):
    own = score(one, one).counts
    np.testing.assert_array_equal(own[:, 0], own[:, 1])
    np.testing.assert_array_equal(own[:, 2], own[:, 3])
    if one.shape == other.shape:
        np.testing.assert_array_equal(score(one, other).counts[:, [2, 3, 0, 1]],
                                      score(other, one).counts)  # fmt: skip


def outlined(width: int) -> np.ndarray:
    """An object whose ignored outline lies half on it and half beside it."""
    truth = square(20, 20)
    half = width // 2
    near = square(20 - half, 20 - half, 20 + 2 * half).astype(bool)
    inner = square(20 + half, 20 + half, 20 - 2 * half).astype(bool)
    truth[near & ~inner] = 255
    return truth


def test_the_boundary_of_an_outlined_object_runs_along_the_middle_of_its_outline():
    truth = outlined(4)
    reach = 1 / math.hypot(60, 60)
    assert score(square(20, 20), truth, reach).result().f == 1
    # At the outline's inner or outer end it is two pixels off.
    for off in (square(18, 18, 24), square(22, 22, 16)):
        assert score(off, truth, reach).result().per_class[1][2] == 0


def test_nothing_counts_in_and_around_a_wide_ignored_region():
    truth = square(5, 5, side=10)
    truth[25:55, 25:55] = 255
    inside = square(5, 5, side=10)
    inside[30:50, 30:50] = 2
    np.testing.assert_array_equal(score(inside, truth).counts, score(truth, truth).counts)
    # Its rim is no error, far from it there is one.
    rim, far = square(5, 5, side=10), square(5, 5, side=10)
    rim[25:55, 25:55] = 2
    far[5:15, 40:50] = 2
    assert score(rim, truth).counts[2].sum() == 0
    assert score(far, truth).counts[2].tolist() == [36, 0, 0, 0]


def test_an_image_without_any_label_counts_nothing():
    blank = np.full((8, 8), 255, np.uint8)
    measure = score(blank, square(0, 0, 4, 8))
    measure.update(square(0, 0, 4, 8), blank)
    with np.errstate(all="raise"):
        result = measure.result()
    assert math.isnan(result.f)
    assert result.per_class == {}


def test_images_add_up_in_any_split():
    rng = np.random.default_rng(0)
    pairs = [rng.integers(0, CLASSES + 1, (2, 7, 9), dtype=np.uint8) for _ in range(6)]
    whole, merged = BoundaryScore(CLASSES), BoundaryScore(CLASSES)
    for pair in pairs:
        whole.update(*pair)
        merged.merge(score(*pair))
    np.testing.assert_array_equal(whole.counts, merged.counts)


def test_refusals():
    good = np.zeros((3, 3), np.uint8)
    with pytest.raises(ValueError, match="truth holds palette value 4"):
        score(good, good + 4)
    with pytest.raises(ValueError, match="does not fit"):
        score(good, good[:2])
    with pytest.raises(ValueError, match="no share"):
        BoundaryScore(CLASSES, 0)
