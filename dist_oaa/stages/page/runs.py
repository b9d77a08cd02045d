"""A run directory as the report reads it: nothing but files, whichever stage wrote them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.rundir import CLASSES, CONFIG
from dist_oaa.stages.launching.records import PIPELINE, Record, load_record

METRICS = "metrics.jsonl"
HEAD = ("stage", "epoch", "step", "closes_epoch")


@dataclass(frozen=True)
class ShownRun:
    """One run of one stage."""

    name: str
    """As the pipeline calls it; of a single run, its stage."""
    stage: str
    folder: Path

    @cached_property
    def entries(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        path = self.folder / METRICS
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        return [entry for entry in map(_parsed, lines) if entry.get("stage") == self.stage]

    @cached_property
    def measured(self) -> list[dict[str, Any]]:
        """Those that close an epoch; the last one of a stage that has no epochs."""
        closing = [entry for entry in self.entries if entry.get("closes_epoch")]
        return closing or self.entries[-1:]

    @property
    def last(self) -> dict[str, Any]:
        """The last measurement, without its head."""
        return {k: v for k, v in (self.measured or [{}])[-1].items() if k not in HEAD}

    @cached_property
    def record(self) -> Record | None:
        """How it was made, where a pipeline or a table made it."""
        return load_record(self.folder)

    @cached_property
    def config_text(self) -> str:
        """Its resolved settings, as YAML."""
        path = self.folder / CONFIG
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @cached_property
    def config(self) -> dict[str, Any]:
        """The same as a mapping."""
        tree = yaml.safe_load(self.config_text) if self.config_text else {}
        return tree if isinstance(tree, dict) else {}

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """In the order of their indices; empty where the run keeps none."""
        path = self.folder / CLASSES
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return tuple(line for line in text.split("\n") if line)

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """(epoch from 1, value) of the epochs in which a figure was measured."""
        return [
            (entry["epoch"] + 1, entry[metric])
            for entry in self.measured
            if entry.get(metric) is not None
        ]


def _parsed(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:  # the end of a line that a crash cut off
        return {}
    return entry if isinstance(entry, dict) else {}


def open_runs(folder: Path) -> tuple[str, list[ShownRun]]:
    """(title, the runs in order) of a pipeline's folder or of a single run directory.

    Raises:
        UserError: when the folder is neither, or its plan is damaged.
    """
    if (folder / PIPELINE).exists():
        try:
            plan = json.loads((folder / PIPELINE).read_text(encoding="utf-8"))
            runs = [
                ShownRun(str(s["name"]), str(s["stage"]), folder / Path(s["folder"]).name)
                for s in plan["stages"]
            ]
            return str(plan["title"]), [run for run in runs if run.entries]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / PIPELINE} is damaged: {error}") from error
    stage = _stage_of(folder)
    if not stage:
        raise UserError(
            f"{folder} has neither {PIPELINE} nor measurements in {METRICS}, expected the folder "
            "of oaa pipeline or a run directory"
        )
    return folder.name, [ShownRun(stage, stage, folder)]


def _stage_of(folder: Path) -> str:
    path = folder / METRICS
    if not path.is_file():
        return ""
    stages = [_parsed(line).get("stage") for line in path.read_text("utf-8").splitlines()]
    return str(next((stage for stage in reversed(stages) if stage), ""))


def of_stage(runs: Sequence[ShownRun], *stages: str) -> list[ShownRun]:
    """The runs of these stages, in order."""
    return [run for run in runs if run.stage in stages]
