"""What the results of `oaa predict` have in common, whether masks or boxes: predictions.json, and
what is said of images that were left out."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.markup import escape
from rich.table import Table

from dist_oaa.config.predict import PredictConfig
from dist_oaa.runtime.files import write_atomic
from dist_oaa.runtime.progress import Reporter
from dist_oaa.stages.predicting.finish import Failed

FORMAT = 1
SUMMARY = "predictions.json"
SHOWN = 10
"""Skipped images that are named on the terminal; predictions.json names all."""

Predicted = TypeVar("Predicted")
Network = TypeVar("Network")


@dataclass(frozen=True)
class Results(ABC, Generic[Network, Predicted]):
    """The results of all images, and what they owe to whom."""

    config: PredictConfig
    trained: Network
    results: list[Predicted | Failed]

    @property
    def predictions(self) -> list[Predicted]:
        """The images that were predicted."""
        return [result for result in self.results if not isinstance(result, Failed)]

    @property
    def failed(self) -> list[Failed]:
        """The images that could not be read."""
        return [result for result in self.results if isinstance(result, Failed)]

    @property
    @abstractmethod
    def supervision(self) -> list[str]:
        """The audit lines."""

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """What predictions.json holds."""

    def save(self, folder: Path) -> None:
        """Writes predictions.json.

        Raises:
            OSError: when the disk is full or not writable.
        """
        text = json.dumps(self.summary(), indent=1, ensure_ascii=False)
        # File names may hold bytes that are no UTF-8: they are written as \\udcXX.
        write_atomic(folder / SUMMARY, (text + "\n").encode(errors="backslashreplace"))

    def failures(self) -> list[dict[str, str]]:
        """The failed images as predictions.json names them."""
        return [{"source": str(f.source.path), "reason": f.reason} for f in self.failed]

    def say(self, reporter: Reporter, notes: list[str], table: Table, places: list[str]) -> None:
        """Prints what was left out, the notes, the table, the audit lines and where things are."""
        for failure in self.failed[:SHOWN]:
            reporter.say(f"skipped: {escape(failure.reason)}")
        if self.failed:
            reporter.say(
                f"{len(self.failed)} of {len(self.results)} images were skipped; {SUMMARY} names "
                "them"
            )
        for note in notes:
            reporter.say(note)
        reporter.console.print(table)
        for line in self.supervision:
            indent = "" if line.startswith("supervision") else "  "
            reporter.say(escape(f"{indent}{line}"))
        for place in places:
            reporter.say(escape(place))
