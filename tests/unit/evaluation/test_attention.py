"""Recall and noise of attention, against a loop over pixels."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dist_oaa.evaluation.attention import AttentionQuality

CLASSES = 3
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 5))


@st.composite
def pairs(draw):
    """A list of (class index, map, mask)."""
    out = []
    for _ in range(draw(st.integers(0, 5))):
        shape = draw(SHAPES)
        # Multiples of 1/8, so that values at exactly half the maximum occur.
        eighths = draw(arrays.arrays(np.int64, shape, elements=st.integers(0, 8)))
        mask = draw(
            arrays.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 255, 255]))
        )
        out.append((draw(st.integers(0, CLASSES - 1)), (eighths / 8).astype(np.float32), mask))
    return out


def naive(sample):
    """(recall, noise, {class: (recall, noise)}) in fractions, None for 0/0."""
    tally = {c: [0, 0, 0] for c in range(CLASSES)}
    for c, map_HW, mask_HW in sample:
        top = max(float(v) for v in map_HW.flat)
        for value, truth in zip(map_HW.flat, mask_HW.flat, strict=True):
            if truth == 255:
                continue
            attended = top > 0 and float(value) >= top / 2
            if attended and truth == c + 1:
                tally[c][0] += 1
            elif attended:
                tally[c][1] += 1
            elif truth == c + 1:
                tally[c][2] += 1
    per_class = {}
    for c, (tp, fp, fn) in tally.items():
        if tp + fn:
            per_class[c] = (Fraction(tp, tp + fn), Fraction(fp, tp + fp) if tp + fp else None)
    recalls = [r for r, _ in per_class.values()]
    noises = [n for _, n in per_class.values() if n is not None]
    return (
        sum(recalls) / len(recalls) if recalls else None,
        sum(noises) / len(noises) if noises else None,
        per_class,
    )


def same(got: float, expected) -> bool:
    return math.isnan(got) if expected is None else math.isclose(got, expected, rel_tol=1e-12)


def measure(sample) -> AttentionQuality:
    quality = AttentionQuality(CLASSES)
    for pair in sample:
        quality.update(*pair)
    return quality


@settings(max_examples=150, deadline=None)
@given(sample=pairs())
def test_equals_a_loop_over_pixels(sample):
    with np.errstate(all="raise"):
        got = measure(sample).result()
    recall, noise, per_class = naive(sample)
    assert same(got.recall, recall)
    assert same(got.noise, noise)
    assert got.per_class.keys() == per_class.keys()
    for c, (class_recall, class_noise) in per_class.items():
        assert same(got.per_class[c][0], class_recall)
        assert same(got.per_class[c][1], class_noise)


@settings(max_examples=60, deadline=None)
@given(sample=pairs(), ranks=st.lists(st.integers(0, 2), min_size=5, max_size=5))
def test_any_split_among_ranks_gives_the_same_counts(sample, ranks):
    merged = AttentionQuality(CLASSES)
    for rank in range(3):
        part = [pair for pair, owner in zip(sample, ranks, strict=False) if owner == rank]
        assert merged.merge(measure(part)) is merged
    assert merged.counts.dtype == np.int64
    np.testing.assert_array_equal(merged.counts, measure(sample).counts)


def test_a_worked_example():
    quality = AttentionQuality(CLASSES)
    mask = np.array([[1, 1, 0, 255], [2, 2, 0, 255]], np.uint8)
    # Cut at 0.4: class 0 attends to one of its two pixels, to a class 1 pixel, to an ignored one.
    quality.update(0, np.array([[0.8, 0.3, 0, 0.8], [0.4, 0, 0, 0]], np.float32), mask)
    # Class 1 occurs but its map is empty: recall 0, no noise.
    quality.update(1, np.zeros((2, 4), np.float32), mask)
    # Class 2 does not occur in the mask: out of both means although its map is wrong.
    quality.update(2, np.ones((2, 4), np.float32), mask)
    np.testing.assert_array_equal(quality.counts, [[1, 1, 1], [0, 0, 2], [0, 6, 0]])
    result = quality.result()
    assert result.recall == 0.25
    assert result.noise == 0.5
    assert result.f_score == (0.5 + 0) / 2
    assert result.per_class.keys() == {0, 1}
    assert result.per_class[0] == (0.5, 0.5)
    assert result.per_class[1][0] == 0
    assert math.isnan(result.per_class[1][1])


def test_one_pixel_and_nothing_at_all():
    quality = AttentionQuality(1)
    with np.errstate(all="raise"):
        assert math.isnan(quality.result().recall)
        assert math.isnan(quality.result().noise)
        quality.update(0, np.ones((1, 1), np.float32), np.array([[255]], np.uint8))
        assert math.isnan(quality.result().recall)
        quality.update(0, np.ones((1, 1), np.float32), np.array([[1]], np.uint8))
    assert (quality.result().recall, quality.result().noise) == (1, 0)


def test_updates_and_merges_keep_the_array():
    quality = AttentionQuality(2)
    buffer = quality.counts
    quality.update(0, np.ones((2, 2), np.float32), np.ones((2, 2), np.uint8))
    quality.merge(quality)
    assert quality.counts is buffer
    assert buffer[0, 0] == 8


def test_refusals():
    quality = AttentionQuality(2)
    ones, mask = np.ones((2, 2), np.float32), np.ones((2, 2), np.uint8)
    with pytest.raises(ValueError, match="class 2 is outside 0 to 1"):
        quality.update(2, ones, mask)
    with pytest.raises(ValueError, match="palette value 7, expected 0 to 2"):
        quality.update(0, ones, mask * 7)
    with pytest.raises(ValueError, match="does not fit"):
        quality.update(0, np.ones((3, 2), np.float32), mask)
    with pytest.raises(ValueError, match="2-D"):
        quality.update(0, ones, np.ones((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="finite"):
        quality.update(0, ones * np.nan, mask)
    with pytest.raises(ValueError, match="cannot take"):
        quality.merge(AttentionQuality(3))
    with pytest.raises(ValueError, match="1 to 254 classes"):
        AttentionQuality(255)
    assert not quality.counts.any()
