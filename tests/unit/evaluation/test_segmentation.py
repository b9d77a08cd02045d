"""Confusion counts and mIoU, by hand and against torchmetrics."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from dist_oaa.evaluation.segmentation import Confusion

CLASSES = 4


def random_images(seed: int, count: int = 6, values=(0, 1, 2, 3, 4, 255)):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        shape = rng.integers(1, 9, 2)
        yield [rng.choice(np.array(values, np.uint8), shape) for _ in range(2)]


def measure(pairs) -> Confusion:
    confusion = Confusion(CLASSES)
    for pair in pairs:
        confusion.update(*pair)
    return confusion


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("values", [(0, 1, 2, 3, 4, 255), (0, 2, 255), (1, 4)])
def test_equals_torchmetrics(seed, values):
    pairs = list(random_images(seed, values=values))
    jaccard = MulticlassJaccardIndex(CLASSES + 1, average="none", ignore_index=255)
    for prediction, truth in pairs:
        # torchmetrics ignores by truth only: carry the ignored predictions over.
        truth = np.where(prediction == 255, 255, truth)
        known = np.where(prediction == 255, 0, prediction)
        jaccard.update(torch.from_numpy(known).int(), torch.from_numpy(truth).int())
    expected = jaccard.compute().numpy()
    with np.errstate(all="raise"):
        got = measure(pairs).result()
    # What is absent has IoU 0 in torchmetrics and no entry here.
    assert set(got.per_class) == {v for v in values if v != 255}
    for palette, iou in got.per_class.items():
        assert iou == pytest.approx(expected[palette], abs=1e-6)
    present = [expected[p] for p in got.per_class]
    assert got.miou == pytest.approx(np.mean(present), abs=1e-6)


def test_a_worked_example():
    confusion = Confusion(2)
    truth = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
    prediction = np.array([[0, 1, 255, 1], [1, 0, 2, 255]], np.uint8)
    confusion.update(prediction, truth)
    np.testing.assert_array_equal(confusion.counts, [[1, 1, 0, 1], [1, 2, 0, 0], [0, 0, 0, 0]])
    result = confusion.result()
    # Class 1 of index, palette 2, is predicted only where the truth is ignored: absent.
    assert result.per_class == {0: 1 / 3, 1: 2 / 4}
    assert result.miou == pytest.approx(5 / 12)
    assert result.ignored == 1 / 6


def test_a_class_predicted_but_absent_from_the_truth_counts_as_zero():
    confusion = Confusion(2)
    confusion.update(np.array([[0, 2]], np.uint8), np.array([[0, 0]], np.uint8))
    assert confusion.result().per_class == {0: 0.5, 2: 0}
    assert confusion.result().miou == 0.25


@pytest.mark.parametrize("seed", range(4))
def test_any_split_among_ranks_gives_the_same_counts(seed):
    pairs = list(random_images(seed, count=7))
    owner = np.random.default_rng(seed).integers(0, 3, len(pairs))
    merged = Confusion(CLASSES)
    for rank in range(3):
        merged.merge(measure(p for p, o in zip(pairs, owner, strict=True) if o == rank))
    assert merged.counts.dtype == np.int64
    np.testing.assert_array_equal(merged.counts, measure(pairs).counts)


def test_nothing_counted_gives_nan_without_a_warning():
    confusion = Confusion(3)
    with np.errstate(all="raise"):
        for _ in range(2):
            result = confusion.result()
            assert math.isnan(result.miou)
            assert math.isnan(result.ignored)
            assert result.per_class == {}
            confusion.update(np.array([[1]], np.uint8), np.array([[255]], np.uint8))
        confusion.update(np.array([[255]], np.uint8), np.array([[1]], np.uint8))
        assert math.isnan(confusion.result().miou)
        assert confusion.result().ignored == 1


def test_the_largest_palette():
    confusion = Confusion(254)
    label = np.array([[254, 0, 255]], np.uint8)
    confusion.update(label, label)
    assert confusion.result().per_class == {0: 1, 254: 1}


def test_refusals():
    confusion = Confusion(2)
    good = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="prediction holds palette value 3"):
        confusion.update(good + 3, good)
    with pytest.raises(ValueError, match="truth holds palette value 254"):
        confusion.update(good, good + 254)
    with pytest.raises(ValueError, match="truth holds palette value -1"):
        confusion.update(good, good.astype(np.int64) - 1)
    with pytest.raises(ValueError, match="does not fit"):
        confusion.update(good, good[:1])
    with pytest.raises(ValueError, match="integer"):
        confusion.update(good, good.astype(np.float32))
    assert not confusion.counts.any()
