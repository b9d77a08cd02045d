"""Results of earlier runs, taken over where all settings agree: nothing is run twice."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.rundir import CONFIG
from dist_oaa.stages.launching import records
from dist_oaa.stages.launching.planned import PlannedRun
from dist_oaa.stages.launching.trees import flatten
from dist_oaa.stages.tuning.space import Space
from dist_oaa.stages.tuning.sweep import Sweep, plan_trial

KEPT = ("metrics.jsonl", CONFIG)
"""What a result is read from."""


def take_over(sweep: Sweep, spaces: Sequence[Space], folders: Sequence[str]) -> list[PlannedRun]:
    """Copies the results of finished runs whose settings are those of a point of the sweep.

    Args:
        folders: sweeps, or run directories; they are only read.

    Raises:
        UserError: when a folder is neither.
    """
    taken = []
    for folder in map(Path, folders):
        candidates = [folder, *sorted(folder.glob("trials/*"))]
        found = [c for c in candidates if (c / CONFIG).is_file() or (c / records.RECORD).is_file()]
        if not found:
            raise UserError(f"warm_start {folder} is neither a sweep nor a run directory")
        for candidate in found:
            for run in same_run(sweep, spaces, candidate):
                if copy_result(run, candidate):
                    taken.append(run)
    return taken


def same_run(sweep: Sweep, spaces: Sequence[Space], folder: Path) -> Iterator[PlannedRun]:
    """The trial that a finished run directory answers, if there is one."""
    settings = finished_settings(folder, sweep.stage)
    if settings is None:
        return
    for space in spaces:
        point = {key: settings[key] for key in space if key in settings}
        if len(point) < len(space) or not all(
            holds(domain.values, domain.listed, point[key]) for key, domain in space.items()
        ):
            continue
        seed = int(settings.get("seed", sweep.seeds[0]))
        if seed not in sweep.seeds:
            continue
        run = plan_trial(sweep, point, seed)
        wanted = json.loads(json.dumps(run.settings))
        # What a later version added has its default there; what differs makes it another run.
        if all(settings.get(key, value) == value for key, value in wanted.items()):
            yield run
            return


def holds(values: Sequence[Any], listed: bool, value: Any) -> bool:
    """Whether a domain has a value."""
    return value in values if listed else values[0] <= value <= values[1]


def finished_settings(folder: Path, stage: str) -> dict[str, Any] | None:
    """The settings of a finished run by dotted key; None where it is not finished, or of another
    stage."""
    record = records.load_record(folder)
    if record is not None:
        return record.settings if record.finished and record.stage == stage else None
    try:
        settings = flatten(yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, AttributeError):
        return None
    closed = records.closed_epochs(folder, stage)
    done = closed and len(closed) >= int(settings.get("optim.epochs", 1))
    return settings if done else None


def copy_result(run: PlannedRun, source: Path) -> bool:
    """Makes a finished trial of the figures of another run; False where the trial is finished."""
    mine = records.load_record(run.folder)
    if (mine is not None and mine.finished) or source.resolve() == run.folder.resolve():
        return False
    run.folder.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (source / name).exists():
            shutil.copyfile(source / name, run.folder / name)
    record = records.load_record(source)
    if record is None:
        measured = records.measurements(source, run.stage)
        record = records.Record(run.name, run.stage, run.seed, run.identity, {}, metrics=measured)
    record.identity, record.settings, record.name = run.identity, run.settings, run.name
    record.finished, record.taken_from = True, str(source.resolve())
    records.save_record(run.folder, record)
    return True
