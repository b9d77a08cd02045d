"""Confusion counts and mIoU, by hand and against torchmetrics."""

import csv
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from dist_oaa.data.classes import VOC_CLASSES
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


def test_accuracies_by_hand():
    confusion = Confusion(3)
    truth = np.array([[0, 0, 0, 0], [1, 1, 255, 2]], np.uint8)
    prediction = np.array([[0, 0, 1, 255], [1, 0, 2, 255]], np.uint8)
    confusion.update(prediction, truth)
    result = confusion.result()
    # Ignored predictions count nowhere, so class 2 has no pixel left; class 3 occurs nowhere.
    assert result.recall == {0: 2 / 3, 1: 1 / 2}
    assert result.mean_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result.pixel_accuracy == 3 / 5


@pytest.mark.parametrize("seed", range(3))
def test_accuracies_equal_torchmetrics(seed):
    pairs = list(random_images(seed, values=(0, 1, 2, 3)))  # class 4 is absent
    known = [(torch.from_numpy(p).int(), torch.from_numpy(t).int()) for p, t in pairs]
    pixel = MulticlassAccuracy(CLASSES + 1, average="micro")
    classes = MulticlassAccuracy(CLASSES + 1, average="none")
    for prediction, truth in known:
        pixel.update(prediction.ravel(), truth.ravel())
        classes.update(prediction.ravel(), truth.ravel())
    result = measure(pairs).result()
    assert result.pixel_accuracy == pytest.approx(float(pixel.compute()))
    expected = classes.compute().numpy()
    assert result.recall == pytest.approx({k: expected[k] for k in range(4)})
    assert result.mean_accuracy == pytest.approx(expected[:4].mean())


def test_real_predictions_equal_torchmetrics(data_root):
    root = data_root("voc2012-dev")
    classes = {name: k + 1 for k, name in enumerate(VOC_CLASSES)}
    confusion = Confusion(20)
    jaccard = MulticlassJaccardIndex(21, average="none", ignore_index=255)
    with open(root / "labels.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    masks = root / "SegmentationClass"
    rows = [row for row in rows if (masks / f"{row['image_id']}.png").is_file()][:12]
    assert len(rows) == 12
    for row in rows:
        # The salient pixels as the image's first class: a prediction with real outlines.
        saliency = np.asarray(Image.open(root / "saliency-u2netp" / f"{row['image_id']}.png"))
        prediction = np.where(saliency > 127, classes[row["classes"].split()[0]], 0)
        truth = np.asarray(Image.open(masks / f"{row['image_id']}.png"))
        confusion.update(prediction.astype(np.uint8), truth)
        jaccard.update(torch.from_numpy(prediction), torch.from_numpy(truth.astype(np.int64)))
    result, expected = confusion.result(), jaccard.compute().numpy()
    assert 0.2 < result.miou < 1
    assert len(result.per_class) > 5
    assert result.per_class == pytest.approx({k: expected[k] for k in result.per_class}, abs=1e-6)
