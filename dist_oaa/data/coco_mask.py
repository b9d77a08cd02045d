"""The mask of an image whose objects are outlined in COCO's way; drawn when it is read.

An outline is a list of polygons [x0, y0, x1, y1, ...] in pixels, or run lengths down the columns:
{"size": [height, width], "counts": numbers or COCO's compressed text}.

Legend: HW the pixels of one image, R its runs.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dist_oaa.config.errors import UserError

IGNORED = 255
LARGEST_INDEX = 254
"""Classes that a mask can hold: 255 is ignored."""


class Outline(NamedTuple):
    """One object."""

    label: int
    """Class index + 1."""
    is_crowd: bool
    shape: Any
    """Polygons or run lengths, as the file has them."""


@dataclass(frozen=True, slots=True)
class InstanceMask:
    """Stands in the place of a mask's file."""

    where: str
    """The file and the image, for messages."""
    height: int
    width: int
    packed: bytes
    """The outlines: compressed text takes a fifth of the memory of Python's lists."""

    def __str__(self) -> str:
        return self.where

    @property
    def megapixels(self) -> float:
        """Size by the file's word."""
        return self.height * self.width / 1e6

    def draw(self) -> np.ndarray:
        """(H, W) uint8: 0 background, class index + 1, 255 ignored; see coco.py.

        Raises:
            ValueError: an outline is none; the message is the end of a sentence.
            UserError: pycocotools is not installed.
        """
        label_HW = np.zeros((self.height, self.width), np.uint8)
        crowd_HW = np.zeros((self.height, self.width), bool)
        for label, is_crowd, shape in json.loads(zlib.decompress(self.packed)):
            covered_HW = self._covered(shape)
            if is_crowd:
                crowd_HW |= covered_HW
                continue
            taken_HW = covered_HW & (label_HW != 0) & (label_HW != label)
            label_HW[covered_HW] = label
            label_HW[taken_HW] = IGNORED
        label_HW[crowd_HW & (label_HW == 0)] = IGNORED
        return label_HW

    def _covered(self, shape: Any) -> np.ndarray:
        """(H, W) bool: the pixels of one object."""
        size = [self.height, self.width]
        if isinstance(shape, list) and all(map(self._is_polygon, shape)):
            shape = _runs_of_polygons(shape, size)
        counts = shape.get("counts") if isinstance(shape, dict) else None
        counts = counts_of(counts) if isinstance(counts, str) else counts
        if (
            not isinstance(counts, list)
            or shape.get("size") != size
            or not all(type(run) is int and run >= 0 for run in counts)
            or sum(counts) != self.height * self.width
        ):
            raise ValueError(
                "an outline is neither polygons near the image nor run lengths of "
                f"{self.height} x {self.width} pixels (height x width)"
            )
        inside_R = np.arange(len(counts)) % 2 == 1
        return np.repeat(inside_R, counts).reshape(self.width, self.height).T

    def _is_polygon(self, polygon: Any) -> bool:
        # pycocotools walks along every edge, pixel by pixel, however far away it leads.
        low, high = -max(self.height, self.width), 2 * max(self.height, self.width)
        return (
            isinstance(polygon, list)
            and len(polygon) >= 6
            and len(polygon) % 2 == 0
            and all(type(x) in (int, float) and low <= x <= high for x in polygon)
        )


def _runs_of_polygons(polygons: list[list[float]], size: list[int]) -> dict[str, Any]:
    """The run lengths of polygons together, as pycocotools rounds them to pixels.

    Raises:
        UserError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UserError(
            "pycocotools is not installed, which draws the masks of COCO's layout: install "
            "dist_oaa[coco]"
        ) from error
    runs = mask.merge(mask.frPyObjects(polygons, *size))
    return {"size": size, "counts": runs["counts"].decode("ascii")}


def counts_of(text: str) -> list[int]:
    """The run lengths in COCO's compressed text.

    Six bits a character from "0" on: five of the number, the lowest first, and one that says that
    the number goes on; the last one's highest bit is the sign. From the third number on, each is
    the difference from the number two before it.

    Raises:
        ValueError: it is no such text.
    """
    counts: list[int] = []
    number, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 40:
            raise ValueError("an outline is no text of run lengths")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number, shift = 0, 0
    if shift:
        raise ValueError("an outline is no whole text of run lengths")
    return counts


def pack(outlines: Sequence[Outline]) -> bytes:
    """Outlines as compressed text."""
    return zlib.compress(json.dumps(outlines).encode(), level=1)
