"""From a table to the runs that it needs: pure functions, but for reading settings files.

Two tables, or two rows of one, that ask for the same settings share one run directory.
"""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dotted_keys
from dist_oaa.stages.launching.kinds import KINDS
from dist_oaa.stages.launching.planned import Asked, PlannedRun, Source, plain_name, plan_run
from dist_oaa.stages.reproducing.tables import Row, Scale, StageSettings, Table


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
class Plan:
    """The runs of a table in an order in which each finds what it reads."""

    runs: dict[str, PlannedRun]
    """By identity; those of the first seed come first."""
    of_row: dict[str, dict[int, str]]
    """Row name -> seed -> identity, of all rows that could be planned."""
    wanted: frozenset[str]
    """Identities of the runs to make: those of the chosen rows, and what they read."""

    @property
    def to_make(self) -> list[PlannedRun]:
        """The wanted runs in order."""
        return [run for identity, run in self.runs.items() if identity in self.wanted]


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
    chosen = [row for row in chosen if row.run]
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
            if row.run and seed not in of_row[row.name]:
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
        return [run, *(each for i in run.sources for each in self.chain(self.runs[i]))]

    def _plan(self, name: str, seed: int, source: PlannedRun | None) -> PlannedRun:
        spec, kind = self.table.runs[name], KINDS[self.table.runs[name].stage]
        base = self.scale.stages.get(spec.stage, StageSettings())
        keys = dotted_keys(kind.config_class())
        given = base.settings | spec.settings
        for key in given:
            if key in ("run_dir", "resume", "seed", "data.root", kind.source):
                raise UserError(f"{key} of run {name} in {self.table.path} is set by the command")
        if "seed" in keys:
            given = {"seed": seed} | given
        if not kind.inherits_data:
            given = {"data.root": str(self.request.root)} | given
        if self.request.saliency_dir and "evaluate.saliency_dir" in keys:
            given |= {"evaluate.saliency_dir": self.request.saliency_dir}
        sources = {}
        if source is not None:
            sources[kind.source] = Source(source, spec.maps)
        where = f"{self.table.path} (run {name}, scale {self.request.scale})"
        asked = Asked(name, spec.stage, seed, base.config, given, sources, where)
        own = self.request.out / "runs"
        return plan_run(
            asked,
            lambda identity: (
                self.existing(identity)
                or own / folder_name(name, self.request.scale, seed, identity)
            ),
        )


def folder_name(name: str, scale: str, seed: int, identity: str) -> str:
    """Of a run directory: what a person looks for, then what a program does."""
    return f"{plain_name(name)}-{scale}-seed{seed}-{identity}"


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
