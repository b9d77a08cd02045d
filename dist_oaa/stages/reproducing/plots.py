"""Pictures of a table: curves over the epochs, or lines over a setting."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dist_oaa.runtime.files import write_atomic
from dist_oaa.stages.launching.records import epochs, value_of
from dist_oaa.stages.reproducing.report import heading
from dist_oaa.stages.reproducing.results import RowResult, TableResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers tell apart; the markers say it again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

Curve = list[tuple[int, float]]
"""(epoch counted from 1, percent)"""


def draw(result: TableResult, path: Path) -> bool:
    """Draws the table's plot as a PNG.

    Returns:
        whether there was anything to draw.
    """
    plot = result.table.plot
    if plot is None or not any(row.runs for row in result.rows):
        return False
    # Slow to import, and needed here alone.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = 1 if plot.kind == "epochs" else len(plot.groups)
    size = (4.2 * len(plot.columns), 3.4 * rows)
    figure, axes = pyplot.subplots(rows, len(plot.columns), figsize=size, squeeze=False)
    for number, column in enumerate(plot.columns):
        if plot.kind == "epochs":
            draw_epochs(axes[0][number], result, column)
        else:
            for line, group in zip(axes, plot.groups, strict=True):
                draw_sweep(line[number], result, column, group)
    for axis in axes.flat:
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{result.table.title}, scale {result.scale}", x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    temporary = path.with_name(f".{path.name}.part")
    figure.savefig(temporary, format="png", dpi=150)
    pyplot.close(figure)
    write_atomic(path, temporary.read_bytes())
    temporary.unlink()
    return True


def draw_epochs(axis: "Axes", result: TableResult, column: str) -> None:
    """A curve a row: bold for the mean over the seeds, thin for each of several seeds."""
    for number, row in enumerate(result.rows):
        seeds = curves(row, column)
        mean = mean_curve(seeds)
        if not mean:
            continue
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axis.plot(*zip(*mean, strict=True), color=colour, marker=marker, ms=4, label=row.row.name)
        for curve in seeds if len(seeds) > 1 else ():
            axis.plot(*zip(*curve, strict=True), color=colour, linewidth=0.7, alpha=0.5)
    axis.set_xlabel("epoch")
    axis.set_ylabel(f"{heading(column).replace(chr(10), ' ')}, %")
    axis.xaxis.get_major_locator().set_params(integer=True)
    if axis.lines:
        axis.legend(frameon=False, fontsize=8)


def curves(row: RowResult, column: str) -> list[Curve]:
    """A row's figure after each measured epoch, a curve for each seed that has any."""
    found = []
    for run, _ in row.runs.values():
        entries = epochs(run.folder, run.stage)
        values = [(e["epoch"] + 1, value_of(e, row.row.maps, column)) for e in entries]
        found.append([(epoch, 100 * value) for epoch, value in values if value is not None])
    return [curve for curve in found if curve]


def mean_curve(seeds: Sequence[Curve]) -> Curve:
    """The mean at the epochs that all seeds have."""
    at: dict[int, list[float]] = defaultdict(list)
    for curve in seeds:
        for epoch, value in curve:
            at[epoch].append(value)
    return [(e, statistics.fmean(v)) for e, v in sorted(at.items()) if len(v) == len(seeds)]


def draw_sweep(axis: "Axes", result: TableResult, column: str, group: str) -> None:
    """A figure over the rows' x, with the standard deviation where runs are repeated."""
    assert result.table.plot is not None
    rows = [r for r in result.rows if r.row.group == group and r.row.x is not None]
    points = sorted(((r.row.x, r.cells[column]) for r in rows), key=lambda point: point[0])
    points = [(x, cell) for x, cell in points if cell.values]
    if points:
        xs, cells = zip(*points, strict=True)
        spread = [cell.deviation if len(cell.values) > 1 else 0 for cell in cells]
        axis.errorbar(
            xs, [c.mean for c in cells], spread, color=COLOURS[0], marker="o", ms=4, capsize=2
        )
    axis.set_xlabel(result.table.plot.groups[group])
    axis.set_ylabel(f"{heading(column).replace(chr(10), ' ')}, %")
