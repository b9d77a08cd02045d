"""Boundary F-score of label images: how well the outlines of a segmentation lie.

Csurka, Larlus, Perronnin: What is a good evaluation measure for semantic segmentation?, BMVC 2013;
the same measure as in DAVIS (Perazzi et al., CVPR 2016). Theirs is averaged over images; here
the boundary pixels of a class are summed over the whole set before precision and recall are taken,
as pixels are for the mIoU, so that the counts add up over ranks and an image without a class says
nothing about it.

Shapes: HW the pixels of one image, C the object classes, L = C + 1 labels, background first.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from dist_oaa.evaluation.counts import (
    IGNORED,
    Accumulator,
    check_same_size,
    mean_where_defined,
    ratio,
)

PREDICTED, PREDICTED_HIT, TRUE, TRUE_HIT = range(4)
"""Columns of the counts."""
HALF_BAND = 5.0
"""Half the widest ignored region that counts as an outline rather than an object, in pixels: VOC
draws outlines of about 5 pixels, which are wider where they meet."""


@dataclass(frozen=True)
class BoundaryResult:
    """Boundary F-score of a set of label images, fractions from 0 to 1."""

    f: float
    """Mean F over background and classes, without those that have no boundary in truth and
    prediction; nan where none has."""
    per_class: dict[int, tuple[float, float, float]]
    """(precision, recall, F) by palette value, without the absent ones; precision is nan where no
    boundary is predicted, recall where none is true."""


class BoundaryScore(Accumulator):
    """Boundary F-score, class by class over the whole set.

    A pixel of a class with a 4-neighbour of another class is a boundary pixel of its class; the
    edge of the image is no boundary. It is a hit where the other label image has a boundary pixel
    of the same class within the tolerance (Euclidean, at least one pixel).

    Ignored (255) pixels: an outline (no wider than 2 * HALF_BAND, or twice the tolerance) takes
    the label of the nearest labelled pixel, so that the boundary runs along its middle, where the
    object's does. In and around wider ignored regions, up to the tolerance, no boundary is counted.

    Args:
        tolerance: share of the image's diagonal.

    Attributes:
        counts: (L, 4) int64 pixels, columns PREDICTED, PREDICTED_HIT, TRUE, TRUE_HIT.
    """

    def __init__(self, num_classes: int, tolerance: float = 0.0075) -> None:
        super().__init__(num_classes, (num_classes + 1, 4))
        if not 0 < tolerance < 1:
            raise ValueError(f"a tolerance of {tolerance} is no share of the image's diagonal")
        self.tolerance = tolerance

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
        reach = max(1.0, self.tolerance * float(np.hypot(*truth_HW.shape)))
        sides = []
        counted_HW = np.ones(truth_HW.shape, dtype=bool)
        for label_HW in (prediction_HW, truth_HW):
            if (label_HW == IGNORED).all():
                return
            filled_HW, open_HW = _without_ignored(label_HW.astype(np.uint8, copy=False), reach)
            counted_HW &= open_HW
            sides.append(np.where(boundary(filled_HW), filled_HW, IGNORED))
        present = np.flatnonzero(
            sum(np.bincount(s_HW.ravel(), minlength=256) for s_HW in sides)[:IGNORED]
        )
        for k in present:
            self.counts[k] += _match(sides[0] == k, sides[1] == k, counted_HW, reach)

    def result(self) -> BoundaryResult:
        """The F-score of everything counted so far; nan, without a warning, where nothing was."""
        precision = ratio(self.counts[:, PREDICTED_HIT], self.counts[:, PREDICTED])
        recall = ratio(self.counts[:, TRUE_HIT], self.counts[:, TRUE])
        there = self.counts[:, PREDICTED] + self.counts[:, TRUE] > 0
        total = precision + recall
        # Without a hit, F is 0, also where precision or recall is 0/0.
        f = np.divide(2 * precision * recall, total, out=np.zeros(len(total)), where=total > 0)
        return BoundaryResult(
            f=float(mean_where_defined(np.where(there, f, np.nan))),
            per_class={
                int(k): (float(precision[k]), float(recall[k]), float(f[k]))
                for k in np.flatnonzero(there)
            },
        )


def boundary(label_HW: np.ndarray) -> np.ndarray:
    """Where a pixel differs from any of its four neighbours; (H, W) bool."""
    edge_HW = np.zeros(label_HW.shape, dtype=bool)
    down = label_HW[1:] != label_HW[:-1]
    edge_HW[1:] |= down
    edge_HW[:-1] |= down
    right = label_HW[:, 1:] != label_HW[:, :-1]
    edge_HW[:, 1:] |= right
    edge_HW[:, :-1] |= right
    return edge_HW


def _without_ignored(label_HW: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Ignored pixels filled with the nearest label, and where boundaries may be counted."""
    ignored_HW = (label_HW == IGNORED).astype(np.uint8)
    open_HW = np.ones(label_HW.shape, dtype=bool)
    if not ignored_HW.any():
        return label_HW, open_HW
    # Every labelled pixel gets a number of its own, and ignored ones that of the nearest.
    depth_HW, nearest_HW = cv2.distanceTransformWithLabels(
        ignored_HW, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    labels = np.zeros(int(nearest_HW.max()) + 1, dtype=np.uint8)
    labels[nearest_HW[ignored_HW == 0]] = label_HW[ignored_HW == 0]
    half = max(HALF_BAND, reach)
    core_HW = depth_HW > half
    if core_HW.any():
        # As far as to a right-angled corner of the region, and the tolerance beyond it.
        open_HW = _distance(core_HW) > half * 2**0.5 + reach
    return labels[nearest_HW], open_HW


def _match(
    predicted_HW: np.ndarray, true_HW: np.ndarray, counted_HW: np.ndarray, reach: float
) -> np.ndarray:
    """The four counts of one class in one image; what is not counted can still be hit."""
    rows, columns = (np.flatnonzero((predicted_HW | true_HW).any(axis)) for axis in (1, 0))
    # All boundary pixels lie in this box, so distances within it are right.
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    predicted_HW, true_HW, counted_HW = predicted_HW[box], true_HW[box], counted_HW[box]
    counts = []
    for mine_HW, other_HW in ((predicted_HW, true_HW), (true_HW, predicted_HW)):
        mine_HW = mine_HW & counted_HW
        near = _distance(other_HW)[mine_HW] <= reach if other_HW.any() else np.zeros(0, dtype=bool)
        counts += [np.count_nonzero(mine_HW), np.count_nonzero(near)]
    return np.array(counts, dtype=np.int64)


def _distance(region_HW: np.ndarray) -> np.ndarray:
    """Euclidean distance of each pixel to a region that is not empty, in pixels, float32."""
    outside_HW = (~region_HW).astype(np.uint8)
    return cv2.distanceTransform(outside_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
