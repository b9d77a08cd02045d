"""One background threshold for a whole set, chosen by looking at images and maps alone.

A good outline parts the image into two regions of different colour. For each threshold the colours
of the attended pixels and of the rest give Otsu's criterion, the variance between the two regions;
the threshold with the largest one, over all images, is taken. No mask is read.

Shapes: HW the pixels of one image, K its target classes, N = H W, T thresholds, B = T + 1 bins.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from dist_oaa.config.labels import BackgroundConfig
from dist_oaa.labels.scores import stretched

UNIT = 1 << 32
"""What 1.0 is in the integer counts: sums do not then depend on their order."""


@dataclass(frozen=True)
class SweepChoice:
    """What a sweep found."""

    threshold: float
    """The chosen threshold, a share of each map's own range."""
    objective_T: np.ndarray
    """(T,) float64: mean objective over the images at each threshold, at most 1."""
    thresholds_T: np.ndarray
    """(T,) float64: the thresholds that were tried, i / T."""
    images: int
    """Images that took part: those with any attention."""


class ThresholdSweep:
    """Adds up an objective over images; sums of `counts` over processes give the same choice.

    Every image has the same say: its objective is divided by its largest value over the
    thresholds. An image without attention, or without contrast, has none.

    Attributes:
        counts: (T + 1,) int64: the objective at each threshold in units of 1 / UNIT, and the
            number of images. Add those of other processes in place, then call `result`.
    """

    def __init__(self, config: BackgroundConfig) -> None:
        self.config = config
        self.thresholds_T = np.arange(config.thresholds) / config.thresholds
        self.counts = np.zeros(config.thresholds + 1, dtype=np.int64)

    def update(self, image_HW3: np.ndarray, maps_KHW: np.ndarray) -> None:
        """Count one image.

        Args:
            image_HW3: (H, W, 3) uint8 RGB.
            maps_KHW: (K, H, W) float, the attention of its classes at image size, any range.

        Raises:
            ValueError: sizes that differ, maps that are not finite.
        """
        attention_KHW = stretched(maps_KHW)
        if attention_KHW.shape[1:] != image_HW3.shape[:2]:
            raise ValueError(
                f"maps of {attention_KHW.shape} do not fit an image of {image_HW3.shape[:2]} pixels"
            )
        if not attention_KHW.any():  # no class, or none with attention
            return
        # A pixel's bin: how many thresholds its strongest class exceeds.
        bin_HW = np.searchsorted(self.thresholds_T.astype(np.float32), attention_KHW.max(0))
        objective_T = OBJECTIVES[self.config.objective](image_HW3, bin_HW, self.thresholds_T)
        largest = objective_T.max()
        if largest > 0:
            self.counts[:-1] += np.rint(objective_T * (UNIT / largest)).astype(np.int64)
            self.counts[-1] += 1

    def result(self) -> SweepChoice:
        """The threshold of the largest objective (the lowest of equals).

        Where no image was counted it is `background.threshold`.
        """
        images = int(self.counts[-1])
        objective_T = self.counts[:-1] / (max(images, 1) * UNIT)
        threshold = self.config.threshold
        if images:
            threshold = float(self.thresholds_T[objective_T.argmax()])
        return SweepChoice(threshold, objective_T, self.thresholds_T, images)


class ColourAgreement:
    """How well the outlines of attention maps follow the colours of their images, without a mask.

    The largest mean, over the images, of the share of an image's colour variance that lies between
    the attended pixels and the rest (`colour_separation`), at one threshold for all images. Sums
    of `counts` over processes give the same figure.

    Attributes:
        counts: (T + 1,) int64: the share at each threshold in units of 1 / UNIT, and the number of
            images.
    """

    SIDE = 160
    """Longest side at which an image is looked at, in pixels: colours need no detail."""

    def __init__(self, thresholds: int) -> None:
        self.thresholds_T = np.arange(thresholds) / thresholds
        self.counts = np.zeros(thresholds + 1, dtype=np.int64)

    def update(self, image_HW3: np.ndarray, maps_KSS: np.ndarray) -> None:
        """Count one image.

        Args:
            image_HW3: (H, W, 3) uint8 RGB.
            maps_KSS: (K, S, S) float, the maps of its classes on the grid over the whole image.

        Raises:
            ValueError: maps that are not finite.
        """
        factor = min(1.0, self.SIDE / max(image_HW3.shape[:2]))
        size = [max(1, round(factor * side)) for side in image_HW3.shape[1::-1]]
        small_HW3 = cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA)
        maps_KHW = np.stack([cv2.resize(m.astype(np.float32), size) for m in maps_KSS])
        bin_HW = np.searchsorted(self.thresholds_T.astype(np.float32), stretched(maps_KHW).max(0))
        share_T = colour_separation(small_HW3, bin_HW, self.thresholds_T)
        self.counts[:-1] += np.rint(share_T * UNIT).astype(np.int64)
        self.counts[-1] += 1

    def result(self) -> float:
        """The figure, 0 to 1; nan where no image was counted."""
        if not self.counts[-1]:
            return float("nan")
        return float(self.counts[:-1].max() / self.counts[-1] / UNIT)


def colour_separation(
    image_HW3: np.ndarray, bin_HW: np.ndarray, thresholds_T: np.ndarray
) -> np.ndarray:
    """Share of the image's colour variance that lies between the two regions, (T,) from 0 to 1.

    w_f w_b |m_f - m_b|^2 / v: the regions' shares of the pixels and their mean colours in CIELAB,
    and the whole variance (Otsu's criterion in three dimensions).
    """
    lab_N3 = cv2.cvtColor(image_HW3.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    # About the mean, so that the rest of the image is what the region is not: s_b = -s_f.
    centred_N3 = lab_N3.astype(np.float64) - lab_N3.mean(0, dtype=np.float64)
    variance = (centred_N3**2).sum(1).mean()
    share_T = _above(bin_HW, None, len(thresholds_T)) / bin_HW.size
    sums_3T = np.stack([_above(bin_HW, c_N, len(thresholds_T)) for c_N in centred_N3.T])
    # w_f w_b |s_f / w_f - s_b / w_b|^2 = |s_f|^2 / (w_f w_b), with sums per pixel of the image
    between_T = ((sums_3T / bin_HW.size) ** 2).sum(0)
    return _divide(between_T, share_T * (1 - share_T) * variance)


def edge_alignment(
    image_HW3: np.ndarray, bin_HW: np.ndarray, thresholds_T: np.ndarray
) -> np.ndarray:
    """Mean colour difference across the outline over that of the whole image, (T,), 0 or more.

    The outline at a threshold is made of the neighbouring pixels of which one exceeds it.
    """
    lab_HW3 = cv2.cvtColor(image_HW3.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    crossed_B, strength_B = np.zeros((2, len(thresholds_T) + 1))
    total, pairs = 0.0, 0
    for axis in (0, 1):
        step_N = np.linalg.norm(np.diff(lab_HW3, axis=axis), axis=2).ravel()
        bin_2N = np.stack([_but(bin_HW, axis, end).ravel() for end in (-1, 0)])
        # The pair is part of the outline from the threshold numbered low to the one below high.
        for edge_N, sign in ((bin_2N.min(0), 1), (bin_2N.max(0), -1)):
            crossed_B += sign * np.bincount(edge_N, minlength=len(crossed_B))
            strength_B += sign * np.bincount(edge_N, step_N, minlength=len(crossed_B))
        total, pairs = total + step_N.sum(dtype=np.float64), pairs + step_N.size
    outline_T = _divide(strength_B.cumsum()[:-1], crossed_B.cumsum()[:-1])
    return _divide(outline_T * pairs, np.full(len(thresholds_T), total))


def attention_separation(
    image_HW3: np.ndarray, bin_HW: np.ndarray, thresholds_T: np.ndarray
) -> np.ndarray:
    """Otsu's criterion on the attention itself: the variance between the two regions, (T,)."""
    value_N = bin_HW.ravel() - bin_HW.mean(dtype=np.float64)
    share_T = _above(bin_HW, None, len(thresholds_T)) / bin_HW.size
    sum_T = _above(bin_HW, value_N, len(thresholds_T)) / (bin_HW.size * len(thresholds_T))
    return _divide(sum_T**2, share_T * (1 - share_T))


OBJECTIVES = {
    "colour": colour_separation,
    "edges": edge_alignment,
    "otsu": attention_separation,
}
"""By `background.objective`: (image_HW3, bin_HW, thresholds_T) -> (T,) float64, 0 or more."""


def _above(bin_HW: np.ndarray, weight_N: np.ndarray | None, count: int) -> np.ndarray:
    """Sum of the weights (or the number) of the pixels above each threshold, (T,)."""
    total_B = np.bincount(bin_HW.ravel(), weight_N, minlength=count + 1)
    return total_B[::-1].cumsum()[::-1][1:]


def _but(values_HW: np.ndarray, axis: int, end: int) -> np.ndarray:
    """All but the first (0) or the last (-1) row or column."""
    return np.delete(values_HW, end, axis=axis)


def _divide(part_T: np.ndarray, whole_T: np.ndarray) -> np.ndarray:
    """part / whole, 0 where the whole is nothing (or next to it, by rounding)."""
    return np.divide(part_T, whole_T, out=np.zeros(len(part_T)), where=whole_T > 1e-12)
