"""The one-pass threshold sweep, against a loop over thresholds and pixels."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dist_oaa.evaluation.seeds import SeedSweep

CLASSES = 3


@st.composite
def images(draw, thresholds: int):
    """A list of (class indices, maps, mask)."""
    out = []
    for _ in range(draw(st.integers(0, 4))):
        shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        classes = draw(st.permutations(range(CLASSES)))[: draw(st.integers(0, CLASSES))]
        # Values on the thresholds, between them, and ties between classes.
        steps = draw(
            arrays.arrays(np.int64, (len(classes), *shape), elements=st.integers(0, 2 * thresholds))
        )
        maps = (steps / (2 * thresholds)).astype(np.float32)
        mask = draw(arrays.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 255])))
        out.append((classes, maps, mask))
    return out


def naive_miou(sample, threshold: np.float32) -> tuple[float, dict[int, float]]:
    hits, union = [0] * (CLASSES + 1), [0] * (CLASSES + 1)
    for classes, maps, mask in sample:
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                truth = int(mask[y, x])
                if truth == 255:
                    continue
                seed, best = 0, threshold
                for c, map_HW in sorted(zip(classes, maps, strict=True), key=lambda item: item[0]):
                    if map_HW[y, x] > best:
                        seed, best = c + 1, map_HW[y, x]
                hits[truth] += seed == truth
                union[truth] += 1
                union[seed] += seed != truth
    iou = {k: hits[k] / union[k] for k in range(CLASSES + 1) if union[k]}
    return (sum(iou.values()) / len(iou) if iou else math.nan), iou


def measure(sample, thresholds: int) -> SeedSweep:
    sweep = SeedSweep(CLASSES, thresholds)
    for image in sample:
        sweep.update(*image)
    return sweep


@settings(max_examples=150, deadline=None)
@given(data=st.data(), thresholds=st.integers(1, 7))
def test_equals_a_loop_over_thresholds_and_pixels(data, thresholds):
    sample = data.draw(images(thresholds))
    with np.errstate(all="raise"):
        got = measure(sample, thresholds).result()
    cuts = [np.float32(i / thresholds) for i in range(thresholds)]
    expected = [naive_miou(sample, cut)[0] for cut in cuts]
    np.testing.assert_allclose(got.miou_T, expected, rtol=1e-12)
    if math.isnan(expected[0]):
        assert math.isnan(got.best_miou)
        assert math.isnan(got.best_threshold)
        assert got.per_class == {}
    else:
        best = int(np.argmax(got.miou_T))
        assert got.best_miou == got.miou_T[best] == max(got.miou_T)
        assert got.best_threshold == best / thresholds
        assert got.per_class == pytest.approx(naive_miou(sample, cuts[best])[1])


@settings(max_examples=50, deadline=None)
@given(sample=images(5), ranks=st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_any_split_among_ranks_gives_the_same_counts(sample, ranks):
    merged = SeedSweep(CLASSES, 5)
    for rank in range(3):
        part = [image for image, owner in zip(sample, ranks, strict=False) if owner == rank]
        merged.merge(measure(part, 5))
    assert merged.counts.dtype == np.int64
    np.testing.assert_array_equal(merged.counts, measure(sample, 5).counts)


def test_a_worked_example():
    sweep = SeedSweep(2, 4)
    mask = np.array([[0, 0, 1, 1]], np.uint8)
    sweep.update([0], np.array([[[0, 0.25, 0.5, 1.0]]], np.float32), mask)
    result = sweep.result()
    # t = 0: three pixels seeded. Background 1/2, class 2/3. The absent class 1 counts nowhere.
    # t = .25: two pixels, perfect. t = .5 and .75: one pixel. Background 2/3, class 1/2.
    np.testing.assert_allclose(result.miou_T, [7 / 12, 1, 7 / 12, 7 / 12])
    assert (result.best_miou, result.best_threshold) == (1, 0.25)
    assert result.per_class == {0: 1, 1: 1}


def test_one_pixel_zero_maps_and_only_ignored_pixels():
    with np.errstate(all="raise"):
        sweep = SeedSweep(2, 3)
        sweep.update([1], np.zeros((1, 1, 1), np.float32), np.array([[2]], np.uint8))
        np.testing.assert_array_equal(sweep.result().miou_T, [0, 0, 0])
        assert sweep.result().best_threshold == 0
        sweep = SeedSweep(2, 3)
        sweep.update([0, 1], np.ones((2, 1, 1), np.float32), np.array([[255]], np.uint8))
        assert not sweep.counts.any()
        assert np.isnan(sweep.result().miou_T).all()


def test_the_order_of_the_classes_does_not_matter():
    maps = np.array([[[0.5]], [[0.5]]], np.float32)
    for mask_value, expected in ((1, 1.0), (2, 0.0)):
        for classes in ([0, 1], [1, 0]):
            sweep = SeedSweep(2, 1)
            sweep.update(classes, maps, np.array([[mask_value]], np.uint8))
            assert sweep.result().best_miou == expected


def test_a_value_on_a_threshold_stays_background():
    # In float64 the float32 nearest to 0.1 exceeds 0.1; the comparison is float32's.
    sweep = SeedSweep(1, 10)
    sweep.update([0], np.full((1, 1, 1), 0.1, np.float32), np.array([[1]], np.uint8))
    np.testing.assert_array_equal(sweep.result().miou_T, [1] + 9 * [0])


def test_refusals():
    sweep = SeedSweep(2, 4)
    maps, mask = np.ones((1, 2, 2), np.float32), np.ones((2, 2), np.uint8)
    with pytest.raises(ValueError, match="class 2"):
        sweep.update([2], maps, mask)
    with pytest.raises(ValueError, match="2 classes do not fit"):
        sweep.update([0, 1], maps, mask)
    with pytest.raises(ValueError, match="palette value 3"):
        sweep.update([0], maps, mask * 3)
    with pytest.raises(ValueError, match="does not fit the mask"):
        sweep.update([0], maps[:, :1], mask)
    with pytest.raises(ValueError, match="finite"):
        sweep.update([0], maps * np.nan, mask)
    with pytest.raises(ValueError, match="at least 1 threshold"):
        SeedSweep(2, 0)
    with pytest.raises(ValueError, match="cannot take"):
        sweep.merge(SeedSweep(2, 5))
    assert not sweep.counts.any()
