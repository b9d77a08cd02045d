"""From a table to the runs that it needs: pure functions, but for reading settings files.

A run is known by its identity: a hash over its stage, the settings that differ from the defaults
and the run that it reads. So a setting that a later version adds does not make a run a stranger,
and two tables, or two rows of one, that ask for the same settings share one run directory.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dotted_keys, parse_config
from dist_oaa.stages.reproducing.files import flatten
from dist_oaa.stages.reproducing.kinds import KINDS
from dist_oaa.stages.reproducing.tables import Row, Scale, StageSettings, Table

# How a run is carried out, not what comes out of it: the whole key or the first part of it.
NOT_IDENTITY = ("run_dir", "resume", "runtime", "checkpoint", "maps", "store.local_dir")
NOT_IDENTITY += ("data.workers",)


@dataclass(frozen=True)
class Request:
    """What the user asks for beside the table."""

    out: Path
    root: Path
    scale: str
    seeds: tuple[int, ...] = ()
    """Empty for the scale's own."""
    only: tuple[str, ...] = ()
    saliency_dir: str = ""


@dataclass(frozen=True)
class PlannedRun:
    """One run of one stage with one seed."""

    name: str
    stage: str
    seed: int
    identity: str
    folder: Path
    """Its run directory."""
    arguments: tuple[str, ...]
    """Of `oaa`, the stage's name first, without --resume."""
    settings: dict[str, Any]
    """Resolved, by dotted key: all that has to do with its result."""
    source: str = ""
    """Identity of the run that it reads."""


@dataclass(frozen=True)
class Plan:
    """The runs of a table in an order in which each finds what it reads."""

    runs: dict[str, PlannedRun]
    """By identity; those of the first seed come first."""
    of_row: dict[str, dict[int, str]]
    """Row name -> seed -> identity, of all rows that could be planned."""
    wanted: frozenset[str]
    """Identities of the runs to make: those of the chosen rows, and what they read."""


def make_plan(
    table: Table, request: Request, existing: Callable[[str], Path | None] = lambda identity: None
) -> Plan:
    """Works out all runs.

    Args:
        existing: the run directory of an identity, where an earlier command or another table has
            made one.

    Raises:
        UserError: when the request or a setting of a chosen row is wrong.
    """
    scale = table.scales.get(request.scale)
    if scale is None:
        raise UserError(
            f"scale is {request.scale}, but {table.path} has only {', '.join(table.scales)}"
        )
    names = [row.name for row in table.rows]
    for name in request.only:
        if name not in names:
            raise UserError(f"only names the row {name}, expected one of {', '.join(names)}")
    chosen = [row for row in table.rows if not request.only or row.name in request.only]
    planner = Planner(table, scale, request, existing)
    of_row: dict[str, dict[int, str]] = {row.name: {} for row in table.rows}
    wanted: set[str] = set()
    for seed in request.seeds or scale.seeds:
        for row in chosen:
            run = planner.run(row.run, seed)
            check_maps(table, row, run)
            of_row[row.name][seed] = run.identity
            wanted |= {each.identity for each in planner.chain(run)}
    for seed in request.seeds or scale.seeds:
        for row in table.rows:
            # What another command made of the other rows is shown; a mistake there is not fatal.
            if seed not in of_row[row.name]:
                with contextlib.suppress(UserError):
                    of_row[row.name][seed] = planner.run(row.run, seed).identity
    return Plan(planner.runs, of_row, frozenset(wanted))


class Planner:
    """Plans single runs, each once."""

    def __init__(
        self,
        table: Table,
        scale: Scale,
        request: Request,
        existing: Callable[[str], Path | None],
    ) -> None:
        self.table, self.scale, self.request, self.existing = table, scale, request, existing
        self.runs: dict[str, PlannedRun] = {}
        self._known: dict[tuple[str, int], PlannedRun] = {}

    def run(self, name: str, seed: int) -> PlannedRun:
        """The run of that name, after all that it reads.

        Raises:
            UserError: when a setting is unknown or out of range.
        """
        if (name, seed) not in self._known:
            spec = self.table.runs[name]
            source = self.run(spec.of, seed) if spec.of else None
            planned = self._plan(name, seed, source)
            self._known[name, seed] = self.runs.setdefault(planned.identity, planned)
        return self._known[name, seed]

    def chain(self, run: PlannedRun) -> list[PlannedRun]:
        """The run and all that it reads, directly or not."""
        return [run, *(self.chain(self.runs[run.source]) if run.source else [])]

    def _plan(self, name: str, seed: int, source: PlannedRun | None) -> PlannedRun:
        spec, kind = self.table.runs[name], KINDS[self.table.runs[name].stage]
        config_class = kind.config_class()
        base = self.scale.stages.get(spec.stage, StageSettings())
        keys = dotted_keys(config_class)
        given = base.settings | spec.settings
        for key in given:
            if key in ("run_dir", "resume", "seed", "data.root", kind.source):
                raise UserError(f"{key} of run {name} in {self.table.path} is set by the command")
        if "seed" in keys:
            given = {"seed": seed} | given
        if not kind.inherits_data:
            given = {"data.root": str(self.request.root)} | given
        if self.request.saliency_dir:
            given |= {"evaluate.saliency_dir": self.request.saliency_dir}
        arguments = ["--config", str(base.config)] if base.config else []
        if source is not None:
            arguments += [f"--{kind.source}", str(source.folder / spec.maps)]
        arguments += [text for k, v in given.items() for text in (f"--{k}", as_text(v))]
        where = f"{self.table.path} (run {name}, scale {self.request.scale})"
        resolved = resolve(config_class, spec.stage, arguments, where)
        identity = identify(spec.stage, resolved, defaults(config_class), source, spec.maps)
        own = self.request.out / "runs" / folder_name(name, self.request.scale, seed, identity)
        folder = self.existing(identity) or own
        return PlannedRun(
            name=name,
            stage=spec.stage,
            seed=seed,
            identity=identity,
            folder=folder,
            arguments=(spec.stage, *arguments, "--run_dir", str(folder)),
            settings=resolved,
            source=source.identity if source else "",
        )


def resolve(config_class: type, stage: str, arguments: list[str], where: str) -> dict[str, Any]:
    """All settings of a run that its result depends on, by dotted key.

    Raises:
        UserError: naming the table's file instead of a command line that nobody typed.
    """
    try:
        config = parse_config(config_class, f"oaa {stage}", arguments)
    except UserError as error:
        raise UserError(str(error).replace("the command line", where)) from error
    return of_result(flatten(dataclasses.asdict(config)))


def defaults(config_class: type) -> dict[str, Any]:
    """The defaults of a config dataclass by dotted key; the class itself is not instantiated."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(field.type):
            flat |= {f"{field.name}.{k}": v for k, v in defaults(field.type).items()}
        elif field.default_factory is not dataclasses.MISSING:
            flat[field.name] = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            flat[field.name] = field.default
    return flat


def of_result(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that only say how a run is carried out."""
    return {
        key: value
        for key, value in flat.items()
        if not any(key == name or key.startswith(f"{name}.") for name in NOT_IDENTITY)
    }


def identify(
    stage: str,
    settings: Mapping[str, Any],
    default: Mapping[str, Any],
    source: PlannedRun | None,
    maps: str,
) -> str:
    """Ten hex digits that name a run."""
    changed = {k: v for k, v in settings.items() if k not in default or default[k] != v}
    whole = [stage, changed, source.identity if source else "", maps]
    text = json.dumps(whole, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def folder_name(name: str, scale: str, seed: int, identity: str) -> str:
    """Of a run directory: what a person looks for, then what a program does."""
    return f"{re.sub(r'[^A-Za-z0-9._]+', '_', name)}-{scale}-seed{seed}-{identity}"


def find_run(out: Path, identity: str) -> Path | None:
    """The run directory of an identity, whatever the table called it."""
    return next(iter(sorted((out / "runs").glob(f"*-{identity}"))), None)


def check_maps(table: Table, row: Row, run: PlannedRun) -> None:
    """Raises UserError when a row asks for cumulative maps that its run does not make."""
    kind, underscore, rule = row.maps.partition("_")
    if run.stage != "classify" or kind != "cumulative" or not underscore:
        return
    rules = [re.sub(r"[^\w]+", "_", name) for name in run.settings["accumulate.compare"]]
    if rule not in rules:
        raise UserError(
            f"maps of row {row.name} in {table.path} is {row.maps}, but accumulate.compare of run "
            f"{row.run} is {run.settings['accumulate.compare']}"
        )


def as_text(value: object) -> str:
    """A setting's value as a command line writes it."""
    if isinstance(value, str):
        return value
    return json.dumps(value)


def command(run: PlannedRun, workers: int, resume: bool) -> list[str]:
    """The command line that starts a run on this machine."""
    stage = ["-m", "dist_oaa", *run.arguments, *(["--resume", "true"] if resume else [])]
    if workers == 1:
        return [sys.executable, *stage]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    return [sys.executable, *launcher, *stage]
