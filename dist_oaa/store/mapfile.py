"""One map in one file: 8-bit grey PNG, or an array of uint8 or float in [0, 1] as npy."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dist_oaa.config.errors import UserError

SUFFIXES = (".png", ".npy")
LONGEST_SIDE = 8192  # of a map file, in cells; refused before anything is decoded
# PIL raises SyntaxError for damaged chunks; numpy EOFError for an empty file.
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def quantise(attention: np.ndarray) -> np.ndarray:
    """Attention in [0, 1] as uint8, round(255 a)."""
    return np.rint(np.float32(255) * attention.astype(np.float32)).astype(np.uint8)


def write_map(path: Path, map_SS: np.ndarray) -> None:
    """Writes a map as its suffix says; a float map as PNG is quantised.

    Raises:
        OSError: when the disk is full or not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, map_SS, allow_pickle=False)
    else:
        grey_SS = map_SS if map_SS.dtype == np.uint8 else quantise(map_SS)
        Image.fromarray(grey_SS).save(path)


def read_map(path: Path) -> np.ndarray:
    """A map file as a 2-D array: uint8, or float in [0, 1].

    Raises:
        UserError: when the file is damaged, no grey picture or grid, or has other values.
    """
    try:
        values = _read_npy(path) if path.suffix.lower() == ".npy" else _read_png(path)
    except DAMAGE as error:
        raise UserError(f"{path} is damaged: {error}") from error
    check_map(values, str(path))
    return values


def check_map(values: np.ndarray, what: str) -> None:
    """Holds an array against what a map must be: two-dimensional, uint8 or float in [0, 1].

    Args:
        what: the file, or the part of it, as the beginning of a sentence.

    Raises:
        UserError: likewise.
    """
    if values.ndim != 2:
        raise UserError(f"{what} is no two-dimensional array, expected a map")
    if values.dtype != np.uint8 and values.dtype.kind != "f":
        raise UserError(f"{what} has type {values.dtype}, expected uint8 or a float")
    _check_sides(what, values.shape)
    if values.dtype != np.uint8 and not ((values >= 0) & (values <= 1)).all():
        low, high = float(values.min()), float(values.max())
        raise UserError(f"{what} has values from {low:g} to {high:g}, expected 0 to 1")


def _read_png(path: Path) -> np.ndarray:
    with Image.open(path, formats=("PNG",)) as picture:
        if picture.mode != "L":
            raise UserError(f"{path} is a PNG of mode {picture.mode}, expected 8-bit grey")
        _check_sides(str(path), picture.size)
        return np.asarray(picture)


def _read_npy(path: Path) -> np.ndarray:
    # Mapped first: an absurd shape in the header is then refused instead of allocated.
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        raise UserError(f"{path} is no two-dimensional array, expected a map")
    _check_sides(str(path), values.shape)
    return np.array(values)


def _check_sides(what: str, sides: tuple[int, ...]) -> None:
    if not 1 <= min(sides) <= max(sides) <= LONGEST_SIDE:
        raise UserError(f"{what} is {sides} cells, expected sides of 1 to {LONGEST_SIDE}")


def to_grid(values: np.ndarray, size: int, dtype: np.dtype) -> np.ndarray:
    """A map on the store's grid of size x size cells, in its number format.

    Other sizes are resized bilinearly with half-pixel centres; equal size and type stay exact.
    """
    if values.shape == (size, size) and values.dtype == dtype:
        return values
    scale = np.float32(255 if values.dtype == np.uint8 else 1)
    attention = values.astype(np.float32) / scale
    if values.shape != (size, size):
        attention = cv2.resize(attention, (size, size), interpolation=cv2.INTER_LINEAR)
        attention = attention.clip(0, 1)
    return quantise(attention) if dtype == np.uint8 else attention.astype(dtype)
