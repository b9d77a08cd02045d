"""Drawings for people: maps over photographs, label images in colour, titled grids of cells.

Every picture is an RGB uint8 array. Shapes: HW3 an image, SS the square grid of a map, HW labels.
"""

import math
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dist_oaa.evaluation.counts import IGNORED
from dist_oaa.evaluation.maps import resize_map

PAGE = (250, 250, 250)
TEXT = (40, 40, 40)
FAINT = (224, 224, 224)
IGNORED_COLOUR = (238, 238, 232)
FONT_SIZE = 13
LINE = 17
"""Height of a text line in pixels."""
GAP = 8
"""Space between neighbouring cells, and around the page, in pixels."""


def overlay(image_HW3: np.ndarray, map_SS: np.ndarray) -> np.ndarray:
    """Draw a map over its image: inferno colours, the more opaque the larger the value.

    The photograph loses some of its own colour, so that warm or green scenes do not hide the map,
    and keeps at least a fifth of its strength. Values are drawn as they are, so that pictures of
    one map at several epochs compare; normalise first where each should show its full range.

    Args:
        image_HW3: (H, W, 3) uint8 RGB.
        map_SS: (S, S) float32, 0 to 1 over the whole image; values outside are clipped.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = image_HW3.shape[:2]
    value_HW = np.clip(resize_map(map_SS, height, width), 0, 1)
    # Inferno begins in black, which would read as shadow: start in its violet instead.
    shade_HW = np.rint(50 + 205 * value_HW).astype(np.uint8)
    colour_HW3 = cv2.applyColorMap(shade_HW, cv2.COLORMAP_INFERNO)[..., ::-1]
    grey_HW1 = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY)[..., None]
    photo_HW3 = 0.4 * image_HW3 + 0.6 * grey_HW1
    alpha_HW1 = 0.8 * value_HW[..., None] ** 0.6
    return np.rint(photo_HW3 * (1 - alpha_HW1) + colour_HW3 * alpha_HW1).astype(np.uint8)


def mask_colours(label_HW: np.ndarray) -> np.ndarray:
    """Label image in the colours of PASCAL VOC, ignored (255) pixels nearly white.

    Args:
        label_HW: (H, W) integer palette values 0 to 255.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    return _voc_palette()[label_HW]


def _voc_palette() -> np.ndarray:
    """(256, 3) uint8: bits 0, 3, 6 of the index are red's highest, 1, 4, 7 green's, 2, 5 blue's."""
    index = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for channel in range(3):
        for digit in range(8):
            if 3 * digit + channel < 8:
                bit = (index >> (3 * digit + channel)) & 1
                palette[:, channel] |= (bit << (7 - digit)).astype(np.uint8)
    palette[IGNORED] = IGNORED_COLOUR
    return palette


def grid(
    rows: Sequence[Sequence[np.ndarray | None]],
    row_titles: Sequence[str],
    column_titles: Sequence[str],
    cell: int = 160,
) -> np.ndarray:
    """Lay pictures out in titled rows and columns on a nearly white page.

    Each picture is scaled, with its aspect kept, to fit a square of `cell` pixels; a row is as
    high as its highest picture. Titles wrap rather than being cut off.

    Args:
        rows: pictures (H, W, 3) uint8 RGB, row by row; None, or a short row, leaves cells empty.
        row_titles: one for each row, or none at all.
        column_titles: one for each column, or none at all.
        cell: side of a cell, in pixels, at least 32.

    Returns:
        (page height, page width, 3) uint8 RGB.

    Raises:
        ValueError: no cell, a cell too small, or titles that do not fit the number of cells.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0 or cell < 32:
        raise ValueError(f"a grid of {len(rows)} x {columns} cells of {cell} pixels shows nothing")
    if len(row_titles) not in (0, len(rows)) or len(column_titles) not in (0, columns):
        raise ValueError(
            f"{len(row_titles)} row and {len(column_titles)} column titles do not fit "
            f"{len(rows)} x {columns} cells"
        )
    font = ImageFont.load_default(size=FONT_SIZE)
    tops = [_wrap(title, font, cell) for title in column_titles]
    sides = [_wrap(title, font, cell) for title in row_titles] or [[] for _ in rows]
    cells = [[None if p is None else _fit(p, cell) for p in row] for row in rows]
    heights = [max((p.height for p in row if p), default=cell) for row in cells]
    heights = [max(h, len(side) * LINE) for h, side in zip(heights, sides, strict=True)]
    text_width = max((font.getlength(line) for side in sides for line in side), default=0)
    left = GAP + (math.ceil(text_width) + GAP if text_width else 0)
    y = GAP + max((len(lines) * LINE + GAP // 2 for lines in tops), default=0)

    size = (left + columns * (cell + GAP), y + sum(heights) + GAP * len(rows))
    page = Image.new("RGB", size, PAGE)
    draw = ImageDraw.Draw(page)
    for column, lines in enumerate(tops):
        # Titles of fewer lines sit close to their column.
        x = left + column * (cell + GAP) + cell / 2
        _write(draw, font, lines, x, y - GAP // 2 - len(lines) * LINE, "ma")
    for row, side, height in zip(cells, sides, heights, strict=True):
        _write(draw, font, side, left - GAP, y + (height - len(side) * LINE) / 2, "ra")
        row = [*row, *[None] * (columns - len(row))]
        for column, picture in enumerate(row):
            _place(page, draw, picture, (left + column * (cell + GAP), y, cell, height))
        y += height + GAP
    return np.array(page)


def _place(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    picture: Image.Image | None,
    box: tuple[int, int, int, int],
) -> None:
    """Put a picture in the middle of the box (x, y, width, height), or draw an empty frame."""
    x, y, width, height = box
    if picture is None:
        draw.rectangle((x, y, x + width - 1, y + height - 1), outline=FAINT)
    else:
        page.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))


def _fit(picture_HW3: np.ndarray, cell: int) -> Image.Image:
    """Scale a picture so that its longer side is `cell` pixels."""
    height, width = picture_HW3.shape[:2]
    scale = cell / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Area averaging when it shrinks, plain cells when it grows: neither invents structure.
    mode = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    return Image.fromarray(picture_HW3).resize(size, mode)


def _write(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    lines: list[str],
    x: float,
    y: float,
    anchor: str,
) -> None:
    for number, line in enumerate(lines):
        draw.text((x, y + number * LINE), line, fill=TEXT, font=font, anchor=anchor)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a title into lines of at most `width` pixels: at spaces, else inside the word."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            if line and font.getlength(f"{line} {word}") <= width:
                line = f"{line} {word}"
                continue
            lines += [line] if line else []
            line = ""
            for character in word:
                if line and font.getlength(line + character) > width:
                    lines.append(line)
                    line = ""
                line += character
        lines.append(line)
    return lines


def save_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an RGB (or grey) uint8 array as a PNG file; readers see the old file or the whole new.

    Makes the folder where it is missing. Raises OSError where the disk refuses; then nothing is
    left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder, so that the rename stays within one file system.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        Image.fromarray(image).save(temporary, format="PNG")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
