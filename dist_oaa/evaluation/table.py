"""The table that ends a run: what the attention is worth, measured on masks."""

import math
from collections.abc import Mapping

from rich.table import Table

COLUMNS = {
    "recall": "recall",
    "noise": "noise",
    "seed_miou": "seed mIoU\n(tuned on masks)",
    "labels_miou": "labels\nmIoU",
}
"""Keys of a row that have a column of their own, with its heading."""


def quality_table(
    rows: Mapping[str, Mapping[str, float]], title: str | None = None, caption: str | None = None
) -> Table:
    """Percentages of attention quality, seeds and pseudo labels, at most 80 columns wide.

    Args:
        rows: by the row's name, for example "CAM (final classifier)" and "cumulative (OAA)", the
            measures as fractions from 0 to 1: `recall`, `noise`, `seed_miou`, `seed_threshold`
            (the best threshold, shown beside the seed mIoU) and `labels_miou`. A measure that no
            row has gets no column; nan, or one that this row lacks, shows as a dash.
        title: a line above the table.
        caption: a line below it, for example the supervision behind the figures.

    Raises:
        ValueError: a measure of another name.
    """
    known = {*COLUMNS, "seed_threshold"}
    present = {key for row in rows.values() for key in row}
    if present - known:
        raise ValueError(f"no column for {sorted(present - known)}, expected {sorted(known)}")
    keys = [key for key in COLUMNS if key in present]
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("maps", overflow="fold", max_width=26)
    for key in keys:
        table.add_column(COLUMNS[key], justify="right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(name, *(_cell(row, key) for key in keys))
    return table


def _cell(row: Mapping[str, float], key: str) -> str:
    text = _percent(row.get(key, math.nan))
    threshold = row.get("seed_threshold", math.nan)
    if key == "seed_miou" and not math.isnan(threshold) and text != "-":
        text += f" at {threshold:.2f}"
    return text


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.1f}"
