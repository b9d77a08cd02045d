"""PxAP against torchmetrics' average precision over all pixels, and by hand."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_average_precision

from dist_oaa.evaluation.pixel_precision import LEVELS, PixelPrecision


def test_by_hand():
    # Object pixels at 1 and 0.5, background at 0.8 and 0: P is 1 at R 1/2, then 2/3 at R 1.
    measure = PixelPrecision()
    measure.update(np.array([[1, 0.8, 0.5, 0]], np.float32), np.array([[3, 0, 3, 1]]), 2)
    assert measure.result() == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_ignored_pixels_and_no_object():
    measure = PixelPrecision()
    measure.update(np.array([[1, 0.8]], np.float32), np.array([[0, 255]]), 0)
    assert np.isnan(measure.result())
    measure.update(np.array([[1, 0.8]], np.float32), np.array([[1, 255]]), 0)
    assert measure.counts.sum() == 2
    assert measure.result() == pytest.approx(0.5)


def test_against_torchmetrics_over_several_images():
    rng = np.random.default_rng(0)
    measure, scores, truths = PixelPrecision(), [], []
    for _ in range(5):
        # On the grid of levels, where the sweep loses nothing.
        map_HW = rng.integers(0, LEVELS + 1, (13, 17)) / LEVELS
        mask_HW = rng.choice([0, 1, 2, 255], (13, 17))
        measure.update(map_HW, mask_HW, 1)
        counted_HW = mask_HW != 255
        scores.append(map_HW[counted_HW])
        truths.append(mask_HW[counted_HW] == 2)
    expected = binary_average_precision(
        torch.from_numpy(np.concatenate(scores)), torch.from_numpy(np.concatenate(truths)).long()
    )
    assert measure.result() == pytest.approx(float(expected), abs=1e-5)


def test_sizes_must_fit():
    with pytest.raises(ValueError, match="does not fit"):
        PixelPrecision().update(np.zeros((2, 3), np.float32), np.zeros((3, 2), int), 0)
