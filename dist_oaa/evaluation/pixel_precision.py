"""PxAP: the average precision of pixels, for localisation maps where there are masks.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020, Eq. 3 and
4: precision and recall of the pixels of all images together at each threshold, and the area under
their curve. No threshold is chosen.

Shapes: HW the pixels of an image; L levels of a map's value.
"""

import numpy as np

from dist_oaa.evaluation.counts import IGNORED, check_same_size

LEVELS = 1000
"""Thresholds, evenly spaced, as published."""


class PixelPrecision:
    """Counts pixels by the value of the map; the counts of several ranks add up.

    Attributes:
        counts: int64 (2, LEVELS + 1): pixels outside and inside the object by level.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((2, LEVELS + 1), dtype=np.int64)

    def update(self, map_HW: np.ndarray, mask_HW: np.ndarray, class_index: int) -> None:
        """Counts the map of one class of one image.

        Args:
            map_HW: float32 in [0, 1].
            mask_HW: 0 background, class index + 1, 255 ignored.

        Raises:
            ValueError: sizes that differ.
        """
        check_same_size(map_HW, mask_HW)
        level_HW = np.floor(map_HW.astype(np.float64) * LEVELS).astype(np.int64)
        for side, chosen_HW in enumerate((mask_HW != class_index + 1, mask_HW == class_index + 1)):
            counted_HW = chosen_HW & (mask_HW != IGNORED)
            self.counts[side] += np.bincount(level_HW[counted_HW], minlength=LEVELS + 1)

    def result(self) -> float:
        """Sum over the levels of (R_l - R_{l + 1}) P_l; nan where no object pixel was counted."""
        false_L, true_L = self.counts[:, ::-1].cumsum(axis=1)
        if not true_L[-1]:
            return float("nan")
        precision_L = true_L / np.maximum(true_L + false_L, 1)
        gained_L = np.diff(true_L, prepend=0)
        return float((precision_L * gained_L).sum() / true_L[-1])
