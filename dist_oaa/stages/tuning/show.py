"""What a person at the terminal sees while trials run: a table that moves, or lines when piped."""

import sys
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dist_oaa.stages.launching.progress import PIPED_EVERY_S, clock
from dist_oaa.stages.tuning.space import shown as text_of
from dist_oaa.stages.tuning.space import unit


@dataclass
class Shown:
    """A trial that has been heard of."""

    name: str
    epochs: int
    epoch: int = 0
    value: float | None = None
    state: str = "running"
    line: str = ""
    began: float = 0.0


class SweepProgress:
    """Reports on the trials of a sweep.

    Args:
        metric: the objective.
    """

    def __init__(self, metric: str, console: Console | None = None) -> None:
        self.metric = metric
        self.console = console or Console(file=sys.stdout, highlight=False)
        self.total = 0
        self._plain = not self.console.is_terminal
        self._shown: dict[str, Shown] = {}
        self._live: Live | None = None
        self._began = time.monotonic()
        self._said_at = 0.0

    def say(self, text: str) -> None:
        """Prints a line."""
        self.console.print(text, markup=False, soft_wrap=self._plain)

    def begin(self, at_once: int) -> None:
        """Says that trials are about to run."""
        self._began = time.monotonic()
        self.say(f"{self.total} trial{'' if self.total == 1 else 's'} to run, {at_once} at once")
        if not self._plain:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()

    def report(self, trial: str, result: dict[str, Any]) -> None:
        """A trial has said something."""
        epochs = result.get("epochs", 0)
        shown = self._shown.setdefault(
            trial, Shown(result.get("name", trial), epochs, began=time.monotonic())
        )
        news = result["epoch"] > shown.epoch
        shown.epoch, shown.line = result["epoch"], result.get("line", "")
        shown.value = result.get(self.metric, shown.value)
        if news and result["state"] == "running":
            self._line(shown, f"epoch {shown.epoch}{f'/{epochs}' if epochs else ''}")
        if result.get("done"):
            # What Ray ends while it runs, the scheduler has stopped.
            state = "stopped" if result["state"] == "running" else result["state"]
            shown.state = state
            took = clock(time.monotonic() - shown.began)
            words = {"finished": f"finished in {took}", "stopped": "stopped early"}
            self._line(shown, words.get(state, f"failed: {result.get('problem', '')}"))
            for line in result.get("lines", [])[:-1]:
                self.say(f"    {line}")
            if result.get("log"):
                self.say(f"    see {result['log']}")
        self._refresh()

    def lost(self, trial: str) -> None:
        """A trial's actor or node is gone."""
        if trial in self._shown:
            self._shown[trial].state = "failed"
            self._line(self._shown[trial], "lost: its node or its process was killed")

    def stopping(self, reason: str) -> None:
        """The sweep is told to stop."""
        self.close()
        self.say(f"{reason}: stopping the trials, each writes a checkpoint if it can")

    def close(self) -> None:
        """Takes the moving table away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self, shown: Shown, text: str) -> None:
        value = (
            ""
            if shown.value is None
            else f"  {self.metric} {text_of(self.metric, shown.value)}{unit(self.metric)}"
        )
        done = sum(each.state != "running" for each in self._shown.values())
        self.say(f"[{done}/{self.total}] {shown.name}: {text}{value}")

    def _refresh(self) -> None:
        seconds = time.monotonic() - self._began
        if self._live is not None:
            self._live.update(self._table(seconds), refresh=True)
        elif self._plain and seconds - self._said_at >= PIPED_EVERY_S:
            self._said_at = seconds
            for shown in self._running():
                self.say(f"{clock(seconds)} {shown.name}: epoch {shown.epoch}  {shown.line}")

    def _running(self) -> list[Shown]:
        return [shown for shown in self._shown.values() if shown.state == "running"]

    def _table(self, seconds: float) -> Table:
        done = sum(each.state != "running" for each in self._shown.values())
        table = Table(
            title=f"{clock(seconds)}  {done} of {self.total} done", title_justify="left", box=None
        )
        for heading in ("trial", "epoch", self.metric.rsplit("/", 1)[-1]):
            table.add_column(heading, no_wrap=True)
        table.add_column("", no_wrap=True, overflow="ellipsis")
        for shown in self._running():
            value = "" if shown.value is None else text_of(self.metric, shown.value)
            epochs = f"{shown.epoch}/{shown.epochs}" if shown.epochs else str(shown.epoch)
            table.add_row(shown.name, epochs, value, shown.line)
        return table
