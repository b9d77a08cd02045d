"""What is known of a run from outside: a record beside what the stage itself wrote.

RUN/run.json         how the run was made and, once it is finished, its last measurements
RUN/log.txt          what all attempts printed
RUN/metrics.jsonl    the stage's own
"""

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dist_oaa.runtime.files import write_atomic
from dist_oaa.stages.launching.planned import PlannedRun

RECORD = "run.json"
LOG = "log.txt"
PIPELINE = "pipeline.json"
"""Of a pipeline: which folder is which stage."""
# runtime/checkpoint.py names it too; importing that would load torch into a process that only
# waits for others.
PUBLISHED = Path("checkpoints") / "latest.json"


@dataclass
class Record:
    """The state of a run."""

    name: str
    stage: str
    seed: int
    identity: str
    settings: dict[str, Any]
    finished: bool = False
    attempts: int = 0
    seconds: float = 0.0
    """Of all attempts together."""
    workers: int = 0
    """Processes of the last attempt, a count."""
    command: list[str] = field(default_factory=list)
    machine: str = ""
    versions: str = ""
    images: str = ""
    """The stage's sentence on what it read."""
    supervision: list[str] = field(default_factory=list)
    """The stage's lines on what the figures owe to anything but the images."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    """Of the last epoch, as fractions."""
    stopped_epoch: int = 0
    """Epochs after which whoever made it decided that it shall not go on; 0 where nobody did."""
    problem: str = ""
    """Why it failed for good."""
    taken_from: str = ""
    """The run directory whose result this is, where it was not made here."""


def load_record(folder: Path) -> Record | None:
    """The record of a run directory, None where there is none that can be read."""
    try:
        return Record(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def save_record(folder: Path, record: Record) -> None:
    """Writes it so that a crash leaves the old one or the new one."""
    write_atomic(folder / RECORD, json.dumps(asdict(record), indent=1).encode())


def finished_record(run: PlannedRun) -> Record | None:
    """The record of a run that needs nothing more, else None."""
    record = load_record(run.folder)
    if record is None or not record.finished or differing_settings(record, run):
        return None
    return record


def differing_settings(record: Record, run: PlannedRun) -> list[str]:
    """Settings that the record and the plan both have, with different values.

    The identity leaves defaults out: where a default has changed since the run was made, its
    figures are no longer those of the same settings.
    """
    both = record.settings.keys() & run.settings.keys()
    return [
        f"{key}: {record.settings[key]} -> {run.settings[key]}"
        for key in sorted(both)
        if record.settings[key] != json.loads(json.dumps(run.settings[key]))
    ]


def can_resume(folder: Path) -> bool:
    """Whether the run has a published checkpoint; a pipeline goes on from what its stages have."""
    return (folder / PUBLISHED).exists() or (folder / PIPELINE).exists()


def clear(folder: Path) -> None:
    """Removes what an attempt without a checkpoint left behind, all but its log and record."""
    for path in folder.iterdir() if folder.exists() else ():
        if path.name not in (LOG, RECORD):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def epochs(folder: Path, stage: str) -> list[dict[str, Any]]:
    """The measurements of each epoch from metrics.jsonl, in order; the last one alone for a stage
    that does not run in epochs."""
    entries = _entries(folder, stage)
    return [entry for entry in entries if entry.get("closes_epoch")] or entries[-1:]


def closed_epochs(folder: Path, stage: str) -> list[dict[str, Any]]:
    """The measurements of the epochs that are over, in order; also of a run that goes on.

    Those of a pipeline are its stages' one after the other, each with what was known before it.
    """
    if stage != "pipeline":
        return [entry for entry in _entries(folder, stage) if entry.get("closes_epoch")]
    closed, known = [], {}
    for part in pipeline_stages(folder):
        for entry in epochs_or_result(folder / part["folder"], part["stage"]):
            known = known | entry | {"epoch": len(closed)}
            closed.append(known)
    return closed


def pipeline_stages(folder: Path) -> list[dict[str, str]]:
    """The stages of a pipeline: name, stage and folder of each; none before it has begun."""
    try:
        return json.loads((folder / PIPELINE).read_text(encoding="utf-8"))["stages"]
    except (OSError, ValueError, KeyError):
        return []


def epochs_or_result(folder: Path, stage: str) -> list[dict[str, Any]]:
    """The closed epochs of a stage of a pipeline; of one without epochs its result, once it is
    finished."""
    closed = closed_epochs(folder, stage)
    record = load_record(folder)
    if closed or record is None or not record.finished:
        return closed
    return epochs(folder, stage)


def _entries(folder: Path, stage: str) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the end of a line that a crash cut off
        if entry.get("stage") == stage:
            entries.append(entry)
    return entries


def figures(entry: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of a line of metrics.jsonl, without its head and those of single classes."""
    return {
        name: value
        for name, value in entry.items()
        if name not in ("stage", "epoch", "step", "closes_epoch")
        and not name.startswith("per_class/")
    }


def measurements(folder: Path, stage: str) -> dict[str, float | None]:
    """The last epoch's figures; a figure that does not exist is None."""
    last = (closed_epochs if stage == "pipeline" else epochs)(folder, stage)[-1:]
    return figures(last[0]) if last else {}


def said(log: str) -> tuple[str, list[str]]:
    """(the sentence on the images, the lines on supervision) of a stage's log."""
    lines = log.splitlines()
    images = [line for line in lines if re.match(r"\d+ images, ", line)]
    starts = [number for number, line in enumerate(lines) if line.startswith("supervision:")]
    if not starts:
        return images[-1] if images else "", []
    end = starts[-1] + 1
    while end < len(lines) and lines[end].startswith("  "):
        end += 1
    return images[-1] if images else "", [line.strip() for line in lines[starts[-1] : end]]


def value_of(metrics: Mapping[str, float | None], maps: str, column: str) -> float | None:
    """A column of a row as a fraction; None where it was not measured."""
    value = metrics.get(f"{maps}/{column}")
    return None if value is None or math.isnan(value) else float(value)
