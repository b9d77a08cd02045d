"""What a person at the terminal sees while runs are made: one moving line, or lines when piped."""

import sys
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dist_oaa.stages.launching.planned import PlannedRun
from dist_oaa.stages.launching.records import Record

PIPED_EVERY_S = 60.0


def with_seed(run: PlannedRun) -> str:
    """A run of a table: several differ in their seeds alone."""
    return f"{run.stage} {run.name}, seed {run.seed}"


class Progress:
    """Reports on the runs of one command.

    Args:
        describe: what a run is called.
    """

    def __init__(
        self, console: Console | None = None, describe: Callable[[PlannedRun], str] = with_seed
    ) -> None:
        self.console = console or Console(file=sys.stdout, highlight=False)
        self.describe = describe
        self._plain = not self.console.is_terminal
        self._number, self._total, self._shown_at = 0, 0, 0.0
        self._run: PlannedRun | None = None
        self._live: Live | None = None

    def say(self, text: str) -> None:
        """Prints a line."""
        # Run directories and shell commands are full of [ and ]: no markup.
        self.console.print(text, markup=False, soft_wrap=self._plain)

    def begin(self, todo: int, done: int) -> None:
        """Says how much there is to do."""
        self._total = todo
        before = f", {done} finished before" if done else ""
        self.say(f"{todo} run{'' if todo == 1 else 's'} to make{before}")

    def started(self, run: PlannedRun, resume: bool) -> None:
        """A run begins."""
        self._number += 1
        self._run, self._shown_at = run, 0.0
        how = ", going on from its checkpoint" if resume else ""
        self.say(f"{self._head()}{how}: {run.folder}")
        if not self._plain:
            # Without a thread of its own: runs are forked from this process.
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()

    def show(self, seconds: float, line: str) -> None:
        """A look at the run: its age and the last line that it printed."""
        if self._live is not None:
            text = Text(f"{self._head()} {clock(seconds)}  {line}", no_wrap=True)
            text.truncate(self.console.width, overflow="ellipsis")
            self._live.update(text, refresh=True)
        elif self._plain and seconds - self._shown_at >= PIPED_EVERY_S:
            self._shown_at = seconds
            self.say(f"{self._head()} {clock(seconds)}  {line}")

    def finished(self, run: PlannedRun, record: Record) -> None:
        """A run ended well."""
        self._end()
        self.say(f"{self._head()} finished in {clock(record.seconds)}")

    def failed(self, run: PlannedRun, problem: str, lines: list[str]) -> None:
        """A run ended badly."""
        self._end()
        self.say(f"{self._head()} failed: {problem}")
        for line in lines:
            self.say(f"    {line}")

    def skipped(self, run: PlannedRun, problem: str) -> None:
        """A run was not begun."""
        self._number += 1
        self._run = run
        self.say(f"{self._head()} {problem}")

    def close(self) -> None:
        """Takes the moving line away."""
        self._end()

    def _end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _head(self) -> str:
        run = self._run
        assert run is not None
        return f"[{self._number}/{self._total}] {self.describe(run)}"


def clock(seconds: float) -> str:
    """A duration as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
