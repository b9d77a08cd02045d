"""mIoU of label images: pseudo labels and segmentations.

Shapes: HW the pixels of one image, C the object classes.
"""

from dataclasses import dataclass

import numpy as np

from dist_oaa.evaluation.counts import (
    IGNORED,
    Accumulator,
    check_same_size,
    mean_where_defined,
    ratio,
)


@dataclass(frozen=True)
class SegmentationResult:
    """Overlap of label images with the truth, fractions from 0 to 1."""

    miou: float
    """Mean IoU over background and classes, without those absent from truth and prediction."""
    per_class: dict[int, float]
    """IoU by palette value (0 background, class index + 1), without the absent ones."""
    ignored: float
    """Share of the pixels with a known truth whose prediction is 255; nan where there are none."""
    recall: dict[int, float]
    """By palette value: share of its pixels that are found (the class's accuracy), of those that
    occur in the truth."""
    pixel_accuracy: float
    """Share of all pixels that are right."""
    mean_accuracy: float
    """Mean of `recall`."""


class Confusion(Accumulator):
    """Confusion counts of predicted label images, background included.

    A pixel that either image ignores is left out of every IoU, so labels that ignore the difficult
    pixels look better than labels that do not: give the share of ignored predictions beside the
    mIoU.

    Attributes:
        counts: (C + 1, C + 2) int64 pixels, row = truth, column = prediction; the last column
            holds the ignored predictions.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, (num_classes + 1, num_classes + 2))

    def update(self, prediction_HW: np.ndarray, truth_HW: np.ndarray) -> None:
        """Count one image.

        Args:
            prediction_HW: (H, W) integer palette values: 0 background, class index + 1, 255
                ignored.
            truth_HW: (H, W), likewise.

        Raises:
            ValueError: an unknown palette value or sizes that differ.
        """
        check_same_size(prediction_HW, truth_HW)
        prediction_HW = self._as_bytes(prediction_HW, "prediction")
        truth_HW = self._as_bytes(truth_HW, "truth")
        # Both bytes in one number: one pass over the pixels counts everything, strays included.
        pair_HW = truth_HW.astype(np.uint16) << 8 | prediction_HW
        joint = np.bincount(pair_HW.ravel(), minlength=256**2).reshape(256, 256)
        labels = self.num_classes + 1
        if joint[labels:IGNORED].any() or joint[:, labels:IGNORED].any():
            self.check_palette(prediction_HW, "prediction")
            self.check_palette(truth_HW, "truth")
        # The last row is the ignored truth, whatever was predicted there.
        self.counts[:, :labels] += joint[:labels, :labels]
        self.counts[:, labels] += joint[:labels, IGNORED]

    def _as_bytes(self, label_HW: np.ndarray, name: str) -> np.ndarray:
        if label_HW.ndim != 2 or label_HW.dtype != np.uint8:
            self.check_palette(label_HW, name)
        return label_HW.astype(np.uint8, copy=False)

    def result(self) -> SegmentationResult:
        """mIoU of everything counted so far; nan, without a warning, where nothing was."""
        confusion = self.counts[:, :-1]
        hits, occurs = confusion.diagonal(), confusion.sum(1)
        iou = ratio(hits, confusion.sum(0) + occurs - hits)
        recall = ratio(hits, occurs)
        return SegmentationResult(
            miou=float(mean_where_defined(iou)),
            per_class={int(k): float(iou[k]) for k in np.flatnonzero(~np.isnan(iou))},
            ignored=float(ratio(self.counts[:, -1].sum(), self.counts.sum())),
            recall={int(k): float(recall[k]) for k in np.flatnonzero(occurs)},
            pixel_accuracy=float(ratio(hits.sum(), confusion.sum())),
            mean_accuracy=float(mean_where_defined(recall)),
        )
