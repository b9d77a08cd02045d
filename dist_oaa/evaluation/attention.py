"""Attention quality: how much of an object a map covers and how much else it covers.

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
from dist_oaa.evaluation.maps import largest_value

TP, FP, FN = range(3)
"""Columns of the counts."""


@dataclass(frozen=True)
class AttentionResult:
    """Recall and noise of the attention maps of a set of images, fractions from 0 to 1."""

    recall: float
    """Mean over the classes that occur; nan where none does."""
    noise: float
    """Mean over the classes that occur and have an attended pixel; nan where there is none."""
    f_score: float
    """Mean over the classes that occur of 2 TP / (2 TP + FP + FN), the harmonic mean of precision
    and recall; nan where none occurs."""
    per_class: dict[int, tuple[float, float]]
    """(recall, noise) of each class index that occurs; the noise is nan where no pixel is
    attended."""


class AttentionQuality(Accumulator):
    """Recall and noise of maps cut at half their own maximum, class by class over the whole set.

    recall = TP / (TP + FN) and noise = 1 - precision = FP / (TP + FP), as the OAA papers measure
    attention. Pixels are summed per class over all images first: a class's large objects weigh
    more than its small ones. Ignored (255) pixels count nowhere. A class occurs when TP + FN > 0;
    the others are left out of both means. A class that occurs but whose maps attend to nothing
    has recall 0, and its noise, 0/0, is left out of the mean noise.

    Attributes:
        counts: (C, 3) int64 pixels, columns TP, FP, FN.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, (num_classes, 3))

    def update(self, class_index: int, map_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        """Count one (image, target class) pair.

        Args:
            class_index: 0 to C-1.
            map_HW: (H, W) float, the attention at image size; attended where it is at least half
                of its maximum, nowhere if the maximum is <= 0.
            mask_HW: (H, W) integer palette values: 0 background, class index + 1, 255 ignored.

        Raises:
            ValueError: an unknown class or palette value, sizes that differ, a map that is not
                finite.
        """
        self.check_class(class_index)
        self.check_palette(mask_HW)
        check_same_size(map_HW, mask_HW)
        object_HW = mask_HW == class_index + 1
        maximum = largest_value(map_HW)
        attended_HW = (map_HW >= 0.5 * maximum) & (mask_HW != IGNORED) & (maximum > 0)
        hits = np.count_nonzero(attended_HW & object_HW)
        row = self.counts[class_index]
        row[TP] += hits
        row[FP] += np.count_nonzero(attended_HW) - hits
        row[FN] += np.count_nonzero(object_HW) - hits

    def result(self) -> AttentionResult:
        """Recall and noise of everything counted so far."""
        hits_C, false_C, missed_C = self.counts.T
        occurs_C = hits_C + missed_C > 0
        recall_C = ratio(hits_C, hits_C + missed_C)[occurs_C]
        noise_C = ratio(false_C, hits_C + false_C)[occurs_C]
        f_C = ratio(2 * hits_C, 2 * hits_C + false_C + missed_C)[occurs_C]
        pairs = zip(recall_C.tolist(), noise_C.tolist(), strict=True)
        return AttentionResult(
            recall=float(mean_where_defined(recall_C)),
            noise=float(mean_where_defined(noise_C)),
            f_score=float(mean_where_defined(f_C)),
            per_class=dict(zip(np.flatnonzero(occurs_C).tolist(), pairs, strict=True)),
        )
