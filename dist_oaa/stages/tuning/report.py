"""The results of a sweep for the terminal, for Markdown and for a program."""

import csv
import io
from dataclasses import dataclass

from rich import box
from rich.table import Table

from dist_oaa.runtime.csv_cells import guarded
from dist_oaa.stages.launching.progress import clock
from dist_oaa.stages.tuning.results import STATES, PointResult, TrialResult, best_point
from dist_oaa.stages.tuning.space import describe, number, share, short_names, shown, unit
from dist_oaa.stages.tuning.sweep import Sweep

SHOWN_ROWS = 24
"""Points that the terminal shows; the files hold all."""
NEEDS_NO_MASK = ("/colour", "classifier/map", "accept_rate", "train/epoch_loss")


@dataclass(frozen=True)
class Results:
    """All that is known of a sweep."""

    sweep: Sweep
    trials: list[TrialResult]
    points: list[PointResult]
    """Best first."""
    correlations: dict[str, tuple[float, int]]
    command: str
    machine: str
    method: str
    """How points were chosen and stopped, in words."""

    @property
    def columns(self) -> list[str]:
        """The objective and what is shown beside it."""
        kind = self.sweep.metric.rpartition("/")[0]
        beside = [f"{kind}/{name}" for name in ("recall", "noise", "seed_miou")]
        measured = {name for trial in self.trials for name in trial.metrics}
        return [self.sweep.metric, *(c for c in beside if c != self.sweep.metric and c in measured)]

    @property
    def best(self) -> PointResult | None:
        """The best finished point."""
        return best_point(self.sweep, self.points)


def cell(point: PointResult, metric: str) -> str:
    """mean +- deviation over the seeds, shares in percent; a dash where nothing was measured."""
    mean, deviation = point.mean(metric), point.deviation(metric)
    if mean is None:
        return "-"
    spread = "" if deviation is None else f" ± {shown(metric, deviation)}"
    return f"{shown(metric, mean)}{spread}"


def heading(metric: str) -> str:
    """A figure's last part, for a narrow column."""
    return metric.rsplit("/", 1)[-1].replace("_", " ").replace("miou", "mIoU")


def titled(metric: str) -> str:
    """A figure's name with its unit, for a document or an axis."""
    return f"{heading(metric)}, %" if share(metric) else heading(metric)


def rich_table(results: Results) -> Table:
    """The points, best first, for a terminal of 80 columns; shares in percent."""
    sweep = results.sweep
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for name in short_names(sweep.keys).values():
        table.add_column(name, justify="right")
    for column in results.columns:
        table.add_column(heading(column), justify="right", no_wrap=True)
    table.add_column("epochs", justify="right")
    table.add_column("state")
    best = results.best
    for point in results.points[:SHOWN_ROWS]:
        values = [number(point.point[key]) for key in sweep.keys]
        cells = [cell(point, column) for column in results.columns]
        style = "bold" if point is best else None
        table.add_row(*values, *cells, str(point.epochs), state(point), style=style)
    return table


def state(point: PointResult) -> str:
    """How far the trials of a point came."""
    finished = sum(trial.state == "finished" for trial in point.trials)
    if point.state == "finished" or len(point.trials) == 1:
        return point.state
    return f"{finished} of {len(point.trials)} finished"


def audit(results: Results) -> list[str]:
    """What the figures are, and what they owe to anything but tags: stands by every result."""
    sweep = results.sweep
    counts = {s: sum(t.state == s for t in results.trials) for s in STATES}
    taken = sum(bool(trial.taken_from) for trial in results.trials)
    listed = sweep.settings.get("evaluate.list")
    where = f"the training images of {listed}" if listed else "all training images that have masks"
    free = sweep.metric.endswith(NEEDS_NO_MASK)
    source = "image-level labels and the images alone, no mask" if free else f"masks of {where}"
    images = next((trial.images for trial in results.trials if trial.images), "")
    lines = [
        f"objective: {sweep.metric} ({sweep.mode}) after a trial's last epoch, from {source}; "
        "the chosen settings are tuned on it",
        f"trials: {', '.join(f'{n} {s}' for s, n in counts.items() if n)}"
        + (f", {taken} of them taken over from earlier runs" if taken else ""),
        f"search: {results.method}; seeds {', '.join(map(str, sweep.seeds))}",
    ]
    if images:
        lines.append(f"trained on: {images}")
    if not free and sweep.metric.endswith("seed_miou"):
        lines.append("seed mIoU: at the background threshold that is best by the same masks")
    return lines


def proxies(results: Results) -> list[str]:
    """How well the figures that need no mask follow the objective, strongest first."""
    free = {k: v for k, v in results.correlations.items() if k.endswith(NEEDS_NO_MASK)}
    ordered = sorted(free.items(), key=lambda item: -abs(item[1][0]))
    return [
        f"{name}: Spearman's rho {rho:+.2f} with the objective over {count} trials"
        for name, (rho, count) in ordered
    ]


def failures(results: Results) -> list[str]:
    """One line for each trial that failed."""
    return [f"{t.run.name}: {t.problem}" for t in results.trials if t.state == "failed"]


def markdown(results: Results, picture: str) -> str:
    """The results as a document."""
    sweep = results.sweep
    head = [*short_names(sweep.keys).values(), *(titled(c) for c in results.columns)]
    head += ["epochs", "state", "time"]
    lines = [
        f"# {sweep.title}",
        "",
        f"    {results.command}",
        "",
        *(f"- {line}" for line in audit(results)),
        f"- machine: {results.machine}",
        "",
    ]
    lines += [f"![objective]({picture})", ""] if picture else []
    lines += [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for point in results.points:
        seconds = sum(trial.seconds for trial in point.trials)
        values = [number(point.point[key]) for key in sweep.keys]
        cells = [cell(point, column) for column in results.columns]
        row = [*values, *cells, str(point.epochs), state(point), clock(seconds)]
        lines.append(f"| {' | '.join(row)} |")
    for title, notes in (
        ("Figures that need no mask", proxies(results)),
        ("Failed", failures(results)),
    ):
        lines += ["", f"## {title}", "", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def csv_text(results: Results) -> str:
    """One line a trial, with every figure of its last epoch as a fraction."""
    sweep = results.sweep
    names = sorted({name for trial in results.trials for name in trial.metrics})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = [*sweep.keys, "seed", "state", "epochs", "seconds", "objective", *names]
    writer.writerow([*head, "folder", "taken_from", "problem"])
    for trial in results.trials:
        values = [trial.point[key] for key in sweep.keys]
        figures = [trial.metrics.get(name, "") for name in names]
        value = "" if trial.value is None else trial.value
        row = [*values, trial.run.seed, trial.state, trial.epochs, round(trial.seconds, 1), value]
        cells = [*row, *figures, trial.run.folder, trial.taken_from, trial.problem]
        writer.writerow(map(guarded, cells))
    return out.getvalue()


def summary(results: Results) -> str:
    """The best point in one sentence."""
    best = results.best
    if best is None:
        return "no point has finished all its trials"
    return (
        f"best: {describe(best.point, results.sweep.keys)} with {results.sweep.metric} "
        f"{cell(best, results.sweep.metric)}{unit(results.sweep.metric)}"
    )
