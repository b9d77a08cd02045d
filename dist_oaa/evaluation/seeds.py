"""Seed quality: the best mIoU that a single background threshold can draw from attention maps.

Shapes: HW the pixels of one image, K its target classes, C all object classes, T thresholds.
"""

from collections.abc import Sequence
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

PREDICTED, HIT, TRUTH = range(3)
"""Planes of the counts."""


@dataclass(frozen=True)
class SweepResult:
    """mIoU of the seeds over the background thresholds, fractions from 0 to 1.

    The best threshold is chosen on the same masks: say so ("tuned on masks") beside the figure.
    """

    best_miou: float
    """Largest of `miou_T`; nan where no pixel was counted."""
    best_threshold: float
    """Lowest threshold that reaches it; nan where no pixel was counted."""
    miou_T: np.ndarray
    """(T,) float64: mIoU at each threshold i / T."""
    per_class: dict[int, float]
    """IoU at the best threshold by palette value (0 background, class index + 1), without the
    absent ones."""


class SeedSweep(Accumulator):
    """Seed mIoU at the background thresholds i / T, i = 0..T-1, all in one pass over the pixels.

    A pixel's seed is the target class with the largest attention there (the lowest class index
    of equals) where this exceeds the threshold, else background. Whatever the threshold, only two
    facts about a pixel matter: its best class, and how many thresholds its value exceeds (its bin,
    0..T). Three histograms over (bin, palette value) then hold everything: by best class, by best
    class where that is the truth, and by truth. They grow with C, not with its square.
    The mean runs over classes and background, without those absent from both seeds and truth.

    Attributes:
        counts: (3, T + 1, C + 1) int64 pixels, planes PREDICTED, HIT, TRUTH.
        thresholds_T: (T,) float32, compared with the maps in that precision.
    """

    def __init__(self, num_classes: int, thresholds: int) -> None:
        if thresholds < 1:
            raise ValueError(f"a sweep needs at least 1 threshold, not {thresholds}")
        super().__init__(num_classes, (3, thresholds + 1, num_classes + 1))
        self.thresholds_T = (np.arange(thresholds) / thresholds).astype(np.float32)

    def update(
        self, class_indices: Sequence[int], maps_KHW: np.ndarray, mask_HW: np.ndarray
    ) -> None:
        """Count one image.

        Args:
            class_indices: its K target classes, 0 to C-1; K = 0 makes every pixel background.
            maps_KHW: (K, H, W) float, their maps at image size, each divided by its own maximum.
            mask_HW: (H, W) integer palette values: 0 background, class index + 1, 255 ignored.

        Raises:
            ValueError: an unknown class or palette value, sizes that differ, a map that is not
                finite.
        """
        if maps_KHW.ndim != 3 or len(class_indices) != len(maps_KHW):
            raise ValueError(f"{len(class_indices)} classes do not fit maps of {maps_KHW.shape}")
        for class_index in class_indices:
            self.check_class(class_index)
        self.check_palette(mask_HW)
        check_same_size(maps_KHW, mask_HW)
        counted_HW = mask_HW != IGNORED
        truth_N = mask_HW[counted_HW].astype(np.intp)
        best_N, value_N = _best_class(class_indices, maps_KHW[:, counted_HW])
        # Number of thresholds below the value: the class is seen at thresholds 0..bin-1.
        bin_N = np.searchsorted(self.thresholds_T, value_N, side="left")
        self._add(PREDICTED, bin_N, best_N)
        hit_N = best_N == truth_N
        self._add(HIT, bin_N[hit_N], best_N[hit_N])
        self._add(TRUTH, bin_N, truth_N)

    def _add(self, plane: int, bin_N: np.ndarray, label_N: np.ndarray) -> None:
        shape = self.counts.shape[1:]
        flat_N = bin_N * shape[1] + label_N
        self.counts[plane] += np.bincount(flat_N, minlength=shape[0] * shape[1]).reshape(shape)

    def result(self) -> SweepResult:
        """mIoU at every threshold, and the best one, of everything counted so far."""
        # Sums over the bins above each threshold: what is still foreground there.
        above = np.cumsum(self.counts[:, ::-1], axis=1)[:, -2::-1]
        total = self.counts[TRUTH].sum()
        predicted, hits = above[PREDICTED], above[HIT]
        truth = np.broadcast_to(self.counts[TRUTH].sum(0), predicted.shape)
        # The rest is background: there the hits are the background pixels not above.
        predicted[:, 0] = total - predicted[:, 1:].sum(1)
        hits[:, 0] = truth[:, 0] - above[TRUTH][:, 0]
        iou = ratio(hits, predicted + truth - hits)
        miou_T = mean_where_defined(iou)
        if total == 0:
            return SweepResult(np.nan, np.nan, miou_T, {})
        best = int(np.argmax(miou_T))
        return SweepResult(
            best_miou=float(miou_T[best]),
            best_threshold=best / len(self.thresholds_T),
            miou_T=miou_T,
            per_class={int(k): float(iou[best, k]) for k in np.flatnonzero(~np.isnan(iou[best]))},
        )


def _best_class(class_indices: Sequence[int], maps_KN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Palette value and attention of the strongest class of each pixel."""
    if len(class_indices) == 0:
        # Value 0 exceeds no threshold, so the palette value stays unread but for its plane.
        return np.zeros(maps_KN.shape[1], np.intp), np.zeros(maps_KN.shape[1], np.float32)
    if maps_KN.size:
        largest_value(maps_KN)
    order_K = np.argsort(class_indices)
    maps_KN = maps_KN[order_K]
    winner_N = maps_KN.argmax(0)
    palette_K = np.asarray(class_indices, dtype=np.intp)[order_K] + 1
    value_N = np.take_along_axis(maps_KN, winner_N[None], axis=0)[0]
    return palette_K[winner_N], value_N
