"""mIoU of label images: pseudo labels and segmentations.

Shapes: HW the pixels of one image, C the object classes.
"""

from dataclasses import dataclass

import numpy as np

from dist_oaa.evaluation.counts import (
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
        self.check_palette(prediction_HW, "prediction")
        self.check_palette(truth_HW, "truth")
        columns = self.num_classes + 2
        # 255 becomes C + 1, in a type wide enough for the sum below.
        prediction_HW = np.minimum(prediction_HW, columns - 1).astype(np.intp)
        truth_HW = np.minimum(truth_HW, columns - 1).astype(np.intp)
        flat = np.bincount((truth_HW * columns + prediction_HW).ravel(), minlength=columns**2)
        # The last row is the ignored truth, whatever was predicted there.
        self.counts += flat.reshape(columns, columns)[:-1]

    def result(self) -> SegmentationResult:
        """mIoU of everything counted so far; nan, without a warning, where nothing was."""
        confusion = self.counts[:, :-1]
        hits = confusion.diagonal()
        iou = ratio(hits, confusion.sum(0) + confusion.sum(1) - hits)
        return SegmentationResult(
            miou=float(mean_where_defined(iou)),
            per_class={int(k): float(iou[k]) for k in np.flatnonzero(~np.isnan(iou))},
            ignored=float(ratio(self.counts[:, -1].sum(), self.counts.sum())),
        )
