"""From finished runs to the cells of a table."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dist_oaa.stages.launching.planned import PlannedRun
from dist_oaa.stages.launching.records import Record, finished_record, value_of
from dist_oaa.stages.reproducing.planning import Plan
from dist_oaa.stages.reproducing.tables import Row, Table


@dataclass(frozen=True)
class Cell:
    """A figure in percent over the seeds that have it."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """nan where no seed has it."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def deviation(self) -> float:
        """The sample standard deviation (n - 1); nan below two seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    def __str__(self) -> str:
        if not self.values:
            return "-"
        if len(self.values) == 1:
            return f"{self.mean:.1f}"
        return f"{self.mean:.1f}±{self.deviation:.1f}"


@dataclass(frozen=True)
class RowResult:
    """A row with everything that is there."""

    row: Row
    runs: dict[int, tuple[PlannedRun, Record]]
    """By seed: those that are finished."""
    cells: dict[str, Cell]
    """By measured column."""


@dataclass(frozen=True)
class TableResult:
    """A table with everything that is there."""

    table: Table
    scale: str
    seeds: tuple[int, ...]
    rows: tuple[RowResult, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The measured columns; those of the pseudo labels only where something was measured."""
        return tuple(
            column
            for column in self.table.columns
            if "label_" not in column or any(r.cells[column].values for r in self.rows)
        )

    @property
    def complete(self) -> bool:
        """Whether every row has every seed."""
        return all(len(result.runs) == len(self.seeds) for result in self.rows if result.row.run)

    def records(self) -> list[tuple[PlannedRun, Record]]:
        """The finished runs behind the rows, each once, in the order of the rows."""
        found = {run.identity: (run, rec) for r in self.rows for run, rec in r.runs.values()}
        return list(found.values())


def collect(
    table: Table,
    plan: Plan,
    scale: str,
    seeds: Sequence[int],
    find: Callable[[PlannedRun], Record | None] = finished_record,
) -> TableResult:
    """Reads what the finished runs measured.

    Args:
        find: the record of a finished run, None for any other.
    """
    records = {identity: find(run) for identity, run in plan.runs.items()}
    rows = []
    for row in table.rows:
        runs = {
            seed: (plan.runs[identity], record)
            for seed, identity in plan.of_row[row.name].items()
            if (record := records[identity]) is not None
        }
        cells = {}
        for column in table.columns:
            found = [value_of(record.metrics, row.maps, column) for _, record in runs.values()]
            cells[column] = Cell(tuple(100 * value for value in found if value is not None))
        rows.append(RowResult(row, runs, cells))
    return TableResult(table, scale, tuple(seeds), tuple(rows))
