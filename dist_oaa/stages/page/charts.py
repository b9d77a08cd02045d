"""Curves over the epochs as SVG text that stands in the page itself."""

import io
import re
from collections.abc import Mapping, Sequence

from dist_oaa.stages.page.runs import ShownRun, of_stage

COLOURS = {"CAM": "#8a8f98", "cumulative": "#d1495b"}
OTHERS = ("#30638e", "#edae49", "#00798c", "#6a4c93")
WIDTH, HEIGHT = 4.6, 2.9
"""Inches; the page scales the drawing to its column."""

Curve = Sequence[tuple[int, float]]

ATTENTION = {
    "recall of the attention": ("recall", "%"),
    "noise of the attention": ("noise", "%"),
    "seed mIoU (best threshold)": ("seed_miou", "%"),
}
KINDS = {"cam": "CAM", "cumulative": "cumulative"}


def charts(runs: Sequence[ShownRun]) -> list[tuple[str, str]]:
    """(title, SVG) of every chart that these runs have curves for."""
    found: list[tuple[str, str]] = []
    for run in of_stage(runs, "classify"):
        for title, (metric, unit) in ATTENTION.items():
            curves = {
                name: [(e, 100 * v) for e, v in run.curve(f"{kind}/{metric}")]
                for kind, name in KINDS.items()
            }
            add(found, _of(run, runs, title), curves, unit)
    for run in of_stage(runs, "integral"):
        curves = {
            metric: [(e, 100 * v) for e, v in run.curve(f"integral/{metric}")]
            for metric in ("recall", "noise")
        }
        add(found, _of(run, runs, "recall and noise of the integral model"), curves, "%")
    for run in of_stage(runs, "segment"):
        curve = [(e, 100 * v) for e, v in run.curve("segmentation/miou")]
        add(found, _of(run, runs, "mIoU of the segmentation network"), {"mIoU": curve}, "%")
    losses = {run.name: run.curve("train/epoch_loss") for run in runs}
    for name, curve in losses.items():
        add(found, f"training loss, {name}", {"loss": curve}, "")
    return found


def _of(run: ShownRun, runs: Sequence[ShownRun], title: str) -> str:
    alone = len(of_stage(runs, run.stage)) == 1
    return title if alone else f"{title}, {run.name}"


def add(found: list[tuple[str, str]], title: str, curves: Mapping[str, Curve], unit: str) -> None:
    """Appends a chart unless no curve of it has two points."""
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
    if curves:
        found.append((title, draw(title, curves, unit)))


def draw(title: str, curves: Mapping[str, Curve], unit: str) -> str:
    """One chart as an SVG element.

    Args:
        title: what it shows, for readers who hear the page.
        curves: by name: (epoch from 1, value).
        unit: of the values, empty where there is none.
    """
    # Slow to import, and needed here alone.
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    others = iter(OTHERS)
    for name, curve in curves.items():
        x, y = zip(*curve, strict=True)
        colour = COLOURS.get(name) or next(others, "#333333")
        axes.plot(x, y, color=colour, linewidth=2, marker="o", markersize=3.5, label=name)
    axes.set_xlabel("epoch", color="#555555")
    axes.set_ylabel(unit, color="#555555")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors="#555555", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#cccccc")
    if len(curves) > 1:
        axes.legend(frameon=False, loc="best", labelcolor="#333333")
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):  # text stays text: small, sharp, searchable
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # The page's style sets the size; the drawing keeps its proportions.
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
