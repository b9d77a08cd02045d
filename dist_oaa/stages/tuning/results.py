"""What came out of a sweep, read from the trials' folders alone."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_oaa.stages.launching import records
from dist_oaa.stages.launching.planned import PlannedRun
from dist_oaa.stages.tuning.space import Point
from dist_oaa.stages.tuning.sweep import Sweep, epochs_of, plan_trial

STATES = ("finished", "stopped", "cut off", "failed", "not started")
"""From best to worst: how far a trial came."""


@dataclass(frozen=True)
class TrialResult:
    """One trial as it stands."""

    run: PlannedRun
    point: Point
    state: str
    """One of STATES; `stopped` is the scheduler's doing, `cut off` can go on."""
    epochs: int
    """Epochs done."""
    metrics: dict[str, float]
    """Of the last epoch that was measured, fractions from 0 to 1."""
    history: list[dict[str, float]]
    """The same after each epoch."""
    value: float | None
    """The objective, None where it was not measured."""
    seconds: float
    problem: str
    taken_from: str
    images: str
    """The stage's sentence on what it read."""


@dataclass(frozen=True)
class PointResult:
    """The trials of one point, of all seeds."""

    point: Point
    trials: list[TrialResult]

    @property
    def state(self) -> str:
        """The state of the trial that came least far."""
        return max((t.state for t in self.trials), key=STATES.index)

    @property
    def epochs(self) -> int:
        """Epochs that all its trials have done."""
        return min(t.epochs for t in self.trials)

    def values(self, metric: str) -> list[float]:
        """A figure of each trial that has it, all after the same number of epochs."""
        return [found[metric] for found in map(self._figures, self.trials) if metric in found]

    def _figures(self, trial: TrialResult) -> dict[str, float]:
        if trial.epochs == self.epochs or not self.epochs:
            return trial.metrics
        return trial.history[self.epochs - 1]

    def mean(self, metric: str) -> float | None:
        """Its mean over the seeds."""
        values = self.values(metric)
        return statistics.fmean(values) if values else None

    def deviation(self, metric: str) -> float | None:
        """Its standard deviation over the seeds; None for fewer than two."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else None


def read_trial(sweep: Sweep, run: PlannedRun) -> TrialResult:
    """A trial as its folder shows it."""
    record = records.load_record(run.folder)
    closed = records.closed_epochs(run.folder, run.stage)
    figures = records.figures(closed[-1]) if closed else {}
    state = "not started"
    if record is not None:
        if record.finished:
            state, figures = "finished", record.metrics
        elif record.stopped_epoch:
            state = "stopped"
            figures = records.figures(closed[min(record.stopped_epoch, len(closed)) - 1])
        else:
            state = "failed" if record.problem else "cut off"
    metrics = defined(figures)
    done = epochs_of(run) if state == "finished" else len(closed)
    if state == "stopped" and record is not None:
        done = record.stopped_epoch
    return TrialResult(
        run=run,
        point={key: run.settings.get(key) for key in sweep.keys},
        state=state,
        epochs=done,
        metrics=metrics,
        history=[defined(records.figures(entry)) for entry in closed],
        value=metrics.get(sweep.metric),
        seconds=record.seconds if record else 0.0,
        problem=record.problem if record else "",
        taken_from=record.taken_from if record else "",
        images=record.images if record else "",
    )


def defined(figures: Mapping[str, float | None]) -> dict[str, float]:
    """The figures that exist."""
    return {name: float(value) for name, value in figures.items() if value is not None}


def made_runs(sweep: Sweep) -> list[PlannedRun]:
    """The trials of this sweep that have been begun, as their records say: those of a search that
    knows its points only as it goes."""
    runs = []
    for path in sorted((Path(sweep.out) / "trials").glob(f"*/{records.RECORD}")):
        record = records.load_record(path.parent)
        if record is None or record.stage != sweep.stage:
            continue
        point = {k: record.settings[k] for k in sweep.keys if k in record.settings}
        if len(point) == len(sweep.keys) and record.seed in sweep.seeds:
            run = plan_trial(sweep, point, record.seed)
            # Of another base, a sweep before this one left it here.
            if run.identity == record.identity:
                runs.append(run)
    return runs


def by_point(sweep: Sweep, trials: Sequence[TrialResult]) -> list[PointResult]:
    """The trials grouped by point, best first: finished ones, then those that came farthest."""
    groups: dict[str, list[TrialResult]] = {}
    for trial in trials:
        groups.setdefault(repr(sorted(trial.point.items())), []).append(trial)
    points = [PointResult(group[0].point, group) for group in groups.values()]

    def rank(result: PointResult) -> tuple:
        mean = result.mean(sweep.metric)
        worst = mean is None
        complete = result.state == "finished"
        return (
            not complete,
            worst,
            0 if complete else -result.epochs,
            0.0 if worst else -sweep.better * mean,
        )

    return sorted(points, key=rank)


def best_point(sweep: Sweep, points: Sequence[PointResult]) -> PointResult | None:
    """The best of the points whose trials are all finished; None where there is none."""
    complete = [p for p in points if p.state == "finished" and p.mean(sweep.metric) is not None]
    if not complete:
        return None
    return max(complete, key=lambda p: sweep.better * p.mean(sweep.metric))


def correlations(sweep: Sweep, trials: Sequence[TrialResult]) -> dict[str, tuple[float, int]]:
    """Spearman's rank correlation of every other figure with the objective over the finished
    trials, with their number; figures that do not vary are left out."""
    from scipy.stats import spearmanr

    finished = [t for t in trials if t.state == "finished" and t.value is not None]
    names = sorted({name for t in finished for name in t.metrics} - {sweep.metric})
    found = {}
    for name in names:
        pairs = [(t.metrics[name], t.value) for t in finished if name in t.metrics]
        columns = list(zip(*pairs, strict=True))
        if len(pairs) >= 5 and all(len(set(column)) > 1 for column in columns):
            found[name] = (float(spearmanr(*columns).statistic), len(pairs))
    return found
