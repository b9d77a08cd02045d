"""What all pixel measures share: integer counts that add up over images and over ranks.

Shapes: HW the pixels of one image, C the object classes (the background is not among them).
"""

from typing import TypeVar

import numpy as np

AccumulatorT = TypeVar("AccumulatorT", bound="Accumulator")

IGNORED = 255
"""Palette value of pixels that no measure counts (VOC's object borders)."""


class Accumulator:
    """A measure whose whole state is one int64 array.

    Sums of integers are exact and do not depend on their order, so any split of the images among
    ranks gives the same result: add up `counts` over the ranks, then call `result()`.

    Attributes:
        counts: the state, an int64 array of fixed shape. `update` and `merge` change it in place,
            so that a tensor which shares its memory (an all-reduce buffer) stays valid.
    """

    counts: np.ndarray

    def __init__(self, num_classes: int, shape: tuple[int, ...]) -> None:
        # Palette values 1..C must fit into a byte without meeting the ignore value.
        if not 1 <= num_classes < IGNORED:
            raise ValueError(f"a mask tells 1 to {IGNORED - 1} classes apart, not {num_classes}")
        self.num_classes = num_classes
        self.counts = np.zeros(shape, dtype=np.int64)

    def merge(self: AccumulatorT, other: AccumulatorT) -> AccumulatorT:
        """Add the counts of `other`, a measure of the same kind and size; returns self."""
        if type(other) is not type(self) or other.counts.shape != self.counts.shape:
            raise ValueError(
                f"{type(self).__name__} with counts {self.counts.shape} cannot take those of "
                f"{type(other).__name__} with counts {other.counts.shape}"
            )
        self.counts += other.counts
        return self

    def check_class(self, class_index: int) -> None:
        """Raise ValueError unless `class_index` is one of 0..C-1."""
        if not 0 <= class_index < self.num_classes:
            raise ValueError(f"class {class_index} is outside 0 to {self.num_classes - 1}")

    def check_palette(self, label_HW: np.ndarray, name: str = "mask") -> None:
        """Raise ValueError unless `label_HW` is a 2-D integer image of 0..C and 255."""
        if label_HW.ndim != 2 or not np.issubdtype(label_HW.dtype, np.integer):
            raise ValueError(
                f"{name} has shape {label_HW.shape} and type {label_HW.dtype}, expected a 2-D "
                "integer image of palette values"
            )
        stray_HW = ((label_HW > self.num_classes) & (label_HW != IGNORED)) | (label_HW < 0)
        if stray_HW.any():
            raise ValueError(
                f"{name} holds palette value {label_HW[stray_HW][0]}, expected 0 to "
                f"{self.num_classes}, or {IGNORED} for ignored pixels"
            )


def check_same_size(map_HW: np.ndarray, mask_HW: np.ndarray) -> None:
    """Raise ValueError unless the two images have the same height and width."""
    if map_HW.shape[-2:] != mask_HW.shape:
        raise ValueError(
            f"map of {map_HW.shape[-2:]} pixels (height, width) does not fit the mask of "
            f"{mask_HW.shape}"
        )


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole as float64, nan where the whole is 0, without a warning."""
    part, whole = np.asarray(part), np.asarray(whole)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole != 0)


def mean_where_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not nan; nan, without a warning, where all are."""
    values = np.asarray(values)
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1))
