"""The objective over the settings as one picture: a heat map, or lines where one setting varies."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_oaa.runtime.files import write_atomic
from dist_oaa.stages.tuning.report import Results, cell, titled
from dist_oaa.stages.tuning.results import PointResult
from dist_oaa.stages.tuning.space import Space, number, share, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"


def draw(results: Results, spaces: Sequence[Space], path: Path) -> bool:
    """Draws a panel for each space as a PNG.

    Returns:
        whether there was anything to draw.
    """
    measured = [p for p in results.points if p.mean(results.sweep.metric) is not None]
    panels = [p for space in spaces for p in panels_of(results, space)]
    if len(measured) < 2 or not panels:
        return False
    # Slow to import, and needed here alone.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(5.4 * len(panels), 4.4), squeeze=False, layout="constrained"
    )
    for axis, (keys, space) in zip(axes[0], panels, strict=True):
        inside = [p for p in measured if belongs(p, space)]
        if len(keys) == 1:
            draw_line(axis, results, inside, keys[0])
            held = [f"{k} {number(d.values[0])}" for k, d in space.items() if not d.varies]
            axis.set_xlabel(", ".join([keys[0], *(f"at {each}" for each in held)]))
        elif is_grid(inside, keys):
            draw_cells(axis, results, inside, keys)
        else:
            draw_contour(axis, results, inside, keys)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{results.sweep.title}: {results.sweep.metric}", x=0.01, ha="left")
    temporary = path.with_name(f".{path.name}.part")
    figure.savefig(temporary, format="png", dpi=150)
    pyplot.close(figure)
    write_atomic(path, temporary.read_bytes())
    temporary.unlink()
    return True


def scaled(metric: str, value: float | None) -> float:
    """A figure on its axis: shares in percent."""
    assert value is not None
    return 100 * value if share(metric) else value


def panels_of(results: Results, space: Space) -> list[tuple[list[str], Space]]:
    """The settings of each panel: the one or two that vary; of more, each with the first."""
    keys = [k for k, d in space.items() if d.varies and numeric(results, k)]
    if len(keys) <= 2:
        return [(keys, space)] if keys else []
    return [([keys[0], key], space) for key in keys[1:]]


def numeric(results: Results, key: str) -> bool:
    """Whether a setting's values lie on an axis."""
    values = [p.point.get(key) for p in results.points]
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def belongs(point: PointResult, space: Space) -> bool:
    """Whether a point lies in a space."""
    for key, domain in space.items():
        value = point.point.get(key)
        if key in point.point and domain.listed and value not in domain.values:
            return False
    return True


def is_grid(points: Sequence[PointResult], keys: Sequence[str]) -> bool:
    """Whether most combinations of the values that occur have been tried."""
    values = [{p.point[key] for p in points} for key in keys]
    return 2 * len(points) > len(values[0]) * len(values[1])


def mark(point: PointResult, best: PointResult | None) -> dict[str, Any]:
    """How a point is drawn: full when finished, hollow when stopped early, ringed when best."""
    full = point.state == "finished"
    edge = ORANGE if point is best else BLUE if full else GREY
    return {"facecolor": BLUE if full else "white", "edgecolor": edge}


def draw_line(axis: "Axes", results: Results, points: Sequence[PointResult], key: str) -> None:
    """The objective over one setting, with the standard deviation over the seeds."""
    metric = results.sweep.metric
    points = sorted(points, key=lambda p: p.point[key])
    finished = [p for p in points if p.state == "finished"]
    axis.errorbar(
        [p.point[key] for p in finished],
        [scaled(metric, p.mean(metric)) for p in finished],
        [scaled(metric, p.deviation(metric) or 0) for p in finished],
        color=BLUE,
        capsize=2,
        zorder=1,
    )
    for point in points:
        best = point is results.best
        axis.scatter(
            point.point[key], scaled(metric, point.mean(metric)), s=90 if best else 36, zorder=2,
            linewidths=2 if best else 1, **mark(point, results.best),
        )  # fmt: skip
    axis.set_xlabel(key)
    axis.set_ylabel(titled(metric))
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    note(axis, points)


def draw_cells(
    axis: "Axes", results: Results, points: Sequence[PointResult], keys: Sequence[str]
) -> None:
    """A coloured cell for each combination, its figure written in it."""
    import numpy as np

    metric = results.sweep.metric
    columns, rows = (sorted({p.point[key] for p in points}) for key in keys)
    values = np.full((len(rows), len(columns)), np.nan)
    for point in points:
        if point.state == "finished":  # others have had fewer epochs: no colour compares them
            place = rows.index(point.point[keys[1]]), columns.index(point.point[keys[0]])
            values[place] = scaled(metric, point.mean(metric))
    reverse = "" if results.sweep.better > 0 else "_r"
    if not np.isfinite(values).any():
        values[:] = 0  # all grey, none compared
        values = np.ma.masked_all_like(values)
    axis.set_facecolor("#e5e5e5")
    image = axis.imshow(values, origin="lower", aspect="auto", cmap=f"cividis{reverse}")
    axis.figure.colorbar(image, ax=axis, label=titled(metric), shrink=0.9)
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for point in points:
        row, column = rows.index(point.point[keys[1]]), columns.index(point.point[keys[0]])
        dark = point.state == "finished" and (
            (values[row, column] < middle) == (results.sweep.better > 0)
        )
        text = cell(point, metric).replace(" ± ", "\n±")
        if point.state != "finished":
            text += f"\nafter {point.epochs}"
        axis.text(
            column, row, text, ha="center", va="center", fontsize=9,
            color="white" if dark else "black",
            fontweight="bold" if point is results.best else "normal",
        )  # fmt: skip
        if point is results.best:
            frame = {"fill": False, "edgecolor": ORANGE, "linewidth": 3}
            axis.add_patch(rectangle(column - 0.48, row - 0.47, 0.96, 0.94, **frame))
    axis.set_xticks(range(len(columns)), [number(v) for v in columns])
    axis.set_yticks(range(len(rows)), [number(v) for v in rows])
    axis.set_xlabel(keys[0])
    axis.set_ylabel(keys[1])
    if any(point.state == "stopped" for point in points):
        axis.set_title("grey: stopped early, after so many epochs", fontsize=9, loc="right")


def rectangle(x: float, y: float, width: float, height: float, **style: Any) -> Any:
    """A frame."""
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, **style)


def draw_contour(
    axis: "Axes", results: Results, points: Sequence[PointResult], keys: Sequence[str]
) -> None:
    """Levels between scattered points, and the points."""
    metric = results.sweep.metric
    finished = [p for p in points if p.state == "finished"]
    xs, ys = ([p.point[key] for p in finished] for key in keys)
    values = [scaled(metric, p.mean(metric)) for p in finished]
    if len(finished) >= 4 and len(set(xs)) > 1 and len(set(ys)) > 1:
        reverse = "" if results.sweep.better > 0 else "_r"
        levels = axis.tricontourf(xs, ys, values, levels=10, cmap=f"cividis{reverse}", alpha=0.8)
        axis.figure.colorbar(levels, ax=axis, label=titled(metric), shrink=0.9)
    names = short_names(list(keys))
    for point in points:
        best = point is results.best
        axis.scatter(
            point.point[keys[0]], point.point[keys[1]], s=110 if best else 40,
            linewidths=2.5 if best else 1, zorder=2, **mark(point, results.best),
        )  # fmt: skip
        if best:
            axis.annotate(
                ", ".join(f"{names[k]} {number(point.point[k])}" for k in keys),
                (point.point[keys[0]], point.point[keys[1]]),
                textcoords="offset points", xytext=(0, 10), ha="center", fontsize=9,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
            )  # fmt: skip
    axis.set_xlabel(keys[0])
    axis.set_ylabel(keys[1])
    for key, limit in ((keys[0], axis.set_xlim), (keys[1], axis.set_ylim)):
        low, high = (f(p.point[key] for p in points) for f in (min, max))
        limit(low - 0.06 * (high - low), high + 0.06 * (high - low))
    note(axis, points)


def note(axis: "Axes", points: Sequence[PointResult]) -> None:
    """Says what hollow points are, where there are any."""
    if any(point.state != "finished" for point in points):
        axis.set_title("hollow: stopped early or not finished", fontsize=9, loc="right")
