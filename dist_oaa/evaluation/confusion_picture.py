"""The confusion matrix as a picture: what each true class is taken for.

Shapes: C object classes, L = C + 1 labels, background first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dist_oaa.evaluation.counts import ratio
from dist_oaa.evaluation.pictures import FAINT, GAP, PAGE, TEXT

LARGEST_CELL, SMALLEST_CELL = 34, 13
"""Sides of a cell, in pixels."""
TOTAL_WIDTH = 760
"""Width that the cells together should not exceed, in pixels, as far as the smallest allows."""
NUMBERS_FROM = 24
"""Cells of at least this many pixels hold their percentage."""
LONGEST_NAME = 130
"""Longest class name, in pixels; what is longer ends in an ellipsis."""
DARK = np.array([8, 48, 107])
"""The colour of 100 %; 0 % is white."""
HIT, MISS = (217, 95, 2), (150, 150, 150)
"""Frames of the diagonal, and text for what does not exist."""


def confusion_picture(counts: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Draw the confusion matrix, each row divided by its sum.

    Rows are true classes, columns predicted ones. A class that no mask shows has an empty row. A
    last column `ignored` holds the share of predictions of 255, where there are any.

    Args:
        counts: (L, L + 1) pixels, row = truth, column = prediction; the last column holds the
            ignored predictions (`Confusion.counts`).
        names: the L names, the background's first.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: names that do not fit the counts.
    """
    labels = len(names)
    if counts.shape != (labels, labels + 1):
        raise ValueError(f"{labels} names do not fit a confusion matrix of {counts.shape}")
    columns = [*names]
    if counts[:, -1].any():
        columns.append("ignored")
    share = ratio(counts, counts.sum(1, keepdims=True).repeat(labels + 1, axis=1))
    cell = int(np.clip(TOTAL_WIDTH // len(columns), SMALLEST_CELL, LARGEST_CELL))
    page = _Page(cell, [*names], columns)
    page.fill(share[:, : len(columns)])
    return np.array(page.image)


@dataclass
class _Page:
    """A page with the names written at the left and above, and cells to fill."""

    cell: int
    rows: list[str]
    columns: list[str]

    def __post_init__(self) -> None:
        self.title_font = ImageFont.load_default(size=14)
        self.font = ImageFont.load_default(size=min(13, self.cell - 1))
        self.number_font = ImageFont.load_default(size=max(9, self.cell // 3))
        rows = [_shortened(name, self.font) for name in self.rows]
        columns = [_shortened(name, self.font) for name in self.columns]
        title = "share of each true class's pixels, %"
        legend = "rows: truth\ncolumns: prediction"
        text = ImageDraw.Draw(Image.new("RGB", (1, 1)))
        legend_box = text.multiline_textbbox((0, 0), legend, self.font)
        widest = max(self.font.getlength(name) for name in rows)
        self.left = GAP * 2 + round(max(widest, legend_box[2]))
        highest = max(self.font.getlength(name) for name in columns)
        self.top = GAP * 3 + 18 + round(max(highest, legend_box[3]))
        width = self.left + self.cell * len(columns) + GAP
        width = max(width, GAP * 2 + round(self.title_font.getlength(title)))
        self.image = Image.new("RGB", (width, self.top + self.cell * len(rows) + GAP), PAGE)
        self.draw = ImageDraw.Draw(self.image)
        self.draw.text((GAP, GAP), title, TEXT, self.title_font)
        self.draw.multiline_text(
            (self.left - GAP, self.top - GAP), legend, MISS, self.font, "rd", align="right"
        )
        for row, name in enumerate(rows):
            y = self.top + (row + 0.5) * self.cell
            self.draw.text((self.left - GAP, y), name, TEXT, self.font, "rm")
        for column, name in enumerate(columns):
            self._write_upwards(name, self.left + (column + 0.5) * self.cell, self.top - GAP // 2)

    def fill(self, share_RC: np.ndarray) -> None:
        """Colours all cells, writes their percentages and frames the diagonal.

        Args:
            share_RC: (rows, columns), 0 to 1; nan leaves a cell empty.
        """
        # The root lets the small confusions be seen beside the large hits.
        strength_RC = np.sqrt(share_RC)
        colour_RC3 = np.where(
            np.isnan(strength_RC)[..., None], PAGE, 255 + (DARK - 255) * strength_RC[..., None]
        )
        cells_HW3 = np.rint(colour_RC3).astype(np.uint8)
        cells_HW3 = cells_HW3.repeat(self.cell, axis=0).repeat(self.cell, axis=1)
        for line in (0, self.cell - 1):
            cells_HW3[line :: self.cell] = FAINT
            cells_HW3[:, line :: self.cell] = FAINT
        self.image.paste(Image.fromarray(cells_HW3), (self.left, self.top))
        if self.cell >= NUMBERS_FROM:
            # nan is neither.
            for row, column in np.argwhere(share_RC >= 0.005).tolist():
                ink = PAGE if strength_RC[row, column] > 0.5 else TEXT
                self._write_number(row, column, f"{100 * share_RC[row, column]:.0f}", ink)
        for k in range(len(self.rows)):
            x, y = self.left + k * self.cell, self.top + k * self.cell
            self.draw.rectangle((x, y, x + self.cell - 1, y + self.cell - 1), outline=HIT)

    def _write_number(self, row: int, column: int, text: str, ink: tuple[int, int, int]) -> None:
        middle = self.left + (column + 0.5) * self.cell, self.top + (row + 0.5) * self.cell
        self.draw.text(middle, text, ink, self.number_font, "mm")

    def _write_upwards(self, text: str, x: float, y: float) -> None:
        """Writes from the bottom up, centred on x and ending at y below."""
        size = (round(self.font.getlength(text)) + 2, self.cell)
        strip = Image.new("RGB", size, PAGE)
        ImageDraw.Draw(strip).text((0, self.cell / 2), text, TEXT, self.font, "lm")
        strip = strip.transpose(Image.Transpose.ROTATE_90)
        self.image.paste(strip, (round(x - strip.width / 2), round(y) - strip.height))


def _shortened(name: str, font: ImageFont.FreeTypeFont) -> str:
    length = font.getlength(name)
    if length <= LONGEST_NAME:
        return name
    name = name[: int(len(name) * LONGEST_NAME / length)]
    while name and font.getlength(name + "…") > LONGEST_NAME:
        name = name[:-1]
    return name + "…"
