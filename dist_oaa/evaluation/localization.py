"""Localisation measured: top-1, top-5, GT-known, MaxBoxAcc and MaxBoxAccV2, and top-k accuracy.

A unit of GT-known and of the MaxBoxAcc measures is one class of one image (in single-label data:
one image); it is hit where the box of that class meets one of the class's true boxes. Top-k
localisation counts images: one is hit where one of the k most probable classes is right and the
box of that class meets. "Meets" is IoU >= 0.5; MaxBoxAccV2 is the mean over IoU >= 0.3, 0.5, 0.7
of the best box of any component.

All counts are kept for every threshold of a grid, so that the threshold may be chosen on one list
and frozen for another. `best` on the very list that is reported is what MaxBoxAcc is as published
(Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020): an upper
bound.

Shapes: T thresholds, D = 3 least IoUs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dist_oaa.evaluation.boxes import Overlaps

IOU = 0.5
IOUS = (0.3, 0.5, 0.7)
TOP = 5


@dataclass(frozen=True)
class Thresholds:
    """Shares of a map's maximum, one for each way to measure."""

    single: float
    """For the box of top-1, top-5 and GT-known."""
    largest: float
    """For MaxBoxAcc."""
    components: tuple[float, ...]
    """For MaxBoxAccV2, one for each of IOUS."""

    @classmethod
    def same(cls, value: float) -> "Thresholds":
        """One for all."""
        return cls(value, value, (value,) * len(IOUS))


def threshold_grid(count: int, *more: float) -> np.ndarray:
    """`count` thresholds, evenly spaced in [0, 1), and further ones; float64, ascending."""
    return np.unique(np.concatenate([np.arange(count) / count, more]))


class Localization:
    """Counts images; the counts of several ranks add up.

    Args:
        thresholds_T: the grid.

    Attributes:
        counts: the whole state, a flat int64 array; `update` changes it in place.
    """

    def __init__(self, thresholds_T: np.ndarray) -> None:
        self.thresholds_T = thresholds_T
        self.counts = np.zeros(5 + (4 + len(IOUS)) * len(thresholds_T), dtype=np.int64)
        self._totals_5 = self.counts[:5]
        hits = self.counts[5:].reshape(4 + len(IOUS), len(thresholds_T))
        self._top1_T, self._top5_T, self._known_T, self._largest_T = hits[:4]
        self._best_DT = hits[4:]

    def update(self, ranked: Sequence[int], found: Mapping[int, Overlaps]) -> None:
        """Counts an image.

        Args:
            ranked: its most probable classes, best first, TOP of them or all there are.
            found: the overlaps of each of its true classes, at least one.
        """
        assert found, "an image without a true class cannot be measured"
        right = [c for c in ranked[:TOP] if c in found]
        self._totals_5 += (
            1,
            len(found),
            ranked[0] in found,
            bool(right),
            sum(not overlap.best_T.any() for overlap in found.values()),
        )
        hit = {c: overlap.single_T >= IOU for c, overlap in found.items()}
        if ranked[0] in found:
            self._top1_T += hit[ranked[0]]
        if right:
            self._top5_T += np.any([hit[c] for c in right], axis=0)
        for c, overlap in found.items():
            self._known_T += hit[c]
            self._largest_T += overlap.largest_T >= IOU
            self._best_DT += overlap.best_T >= np.array(IOUS)[:, None]

    @property
    def images(self) -> int:
        """Images counted."""
        return int(self._totals_5[0])

    @property
    def pairs(self) -> int:
        """(image, class) pairs counted."""
        return int(self._totals_5[1])

    @property
    def unseen(self) -> int:
        """Pairs of which no box meets the truth at all at any threshold."""
        return int(self._totals_5[4])

    def best(self) -> Thresholds:
        """The thresholds with the most hits; of several equally good ones that in the middle."""
        return Thresholds(
            self._best(self._known_T),
            self._best(self._largest_T),
            tuple(self._best(hits_T) for hits_T in self._best_DT),
        )

    def at(self, thresholds: Thresholds) -> dict[str, float]:
        """The measures at thresholds of the grid, fractions from 0 to 1; nan without an image."""
        single = self._index(thresholds.single)
        largest = self._index(thresholds.largest)
        by_iou = [
            self._share(hits_T[self._index(value)], self.pairs)
            for hits_T, value in zip(self._best_DT, thresholds.components, strict=True)
        ]
        return {
            "top1": self._share(self._top1_T[single], self.images),
            "top5": self._share(self._top5_T[single], self.images),
            "gt_known": self._share(self._known_T[single], self.pairs),
            "max_box_acc": self._share(self._largest_T[largest], self.pairs),
            "max_box_acc_v2": float(np.mean(by_iou)),
            **{
                f"max_box_acc_v2_iou{round(100 * iou)}": value
                for iou, value in zip(IOUS, by_iou, strict=True)
            },
        }

    def accuracy(self) -> dict[str, float]:
        """Shares of the images whose most probable class, or one of the first five, is right."""
        return {
            "top1": self._share(self._totals_5[2], self.images),
            "top5": self._share(self._totals_5[3], self.images),
        }

    def _best(self, hits_T: np.ndarray) -> float:
        best = np.flatnonzero(hits_T == hits_T.max())
        return float(self.thresholds_T[best[len(best) // 2]])

    def _index(self, threshold: float) -> int:
        (index,) = np.flatnonzero(self.thresholds_T == threshold)
        return int(index)

    @staticmethod
    def _share(hits: int, whole: int) -> float:
        return float(hits) / whole if whole else float("nan")
