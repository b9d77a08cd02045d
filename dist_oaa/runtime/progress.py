"""What rank 0 tells the person at the terminal: a progress bar, or plain lines when piped."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dist_oaa.runtime.watching.pulse import Pulse

LINE_EVERY_S = 60.0
"""Longest time between plain lines while steps are made, in seconds."""


class Reporter:
    """Progress of the optimiser steps. On other ranks than the first it is silent.

    Args:
        enabled: whether this rank prints.
        log_every: steps between plain lines, or fewer where steps are slow; a bar on a terminal
            moves at every step.
    """

    def __init__(self, enabled: bool, log_every: int) -> None:
        self.console = Console(file=sys.stdout, quiet=not enabled, highlight=False)
        self._plain = not self.console.is_terminal
        self._log_every = log_every
        self._progress: Progress | None = None
        self._total = 0
        self.restart_clock()

    def say(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        # A terminal wraps between words; a log keeps one entry a line.
        self.console.print(text, soft_wrap=self._plain)

    def start(self, total: int, done: int) -> None:
        """Begins to count towards `total` optimiser steps, of which some are done."""
        self._total = total
        self.restart_clock()
        if self._plain or self.console.quiet:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=total, completed=done, status="")
        self._progress.start()

    def restart_clock(self) -> None:
        """Leaves what happened since the last step (measuring) out of the rate."""
        self._since = time.monotonic()
        self._images, self._steps = 0, 0

    def step(self, epoch: int | None, step: int, images: int, values: Mapping[str, float]) -> None:
        """Reports a finished optimiser step.

        Args:
            epoch: counted from 0, printed from 1; None where there is but one pass.
            step: steps done over the whole run.
            images: images of this step over all ranks.
            values: short names and their running values, such as loss and accept rate.
        """
        self._images += images
        self._steps += 1
        rate = self._images / max(1e-9, time.monotonic() - self._since)
        status = " ".join(f"{k} {v:.3g}" for k, v in values.items()) + f" {rate:.1f} img/s"
        passes = "" if epoch is None else f"epoch {epoch + 1} "
        if self._progress is not None:
            self._progress.update(
                self._task, completed=step, description=passes.strip(), status=status
            )
        elif self._plain and self._due(step):
            self.say(f"{passes}step {step}/{self._total} {status.strip()}{self._eta(step)}")
            self.restart_clock()

    def _due(self, step: int) -> bool:
        late = time.monotonic() - self._since >= LINE_EVERY_S
        return late or step % self._log_every == 0 or step == self._total

    def _eta(self, step: int) -> str:
        pace = (time.monotonic() - self._since) / self._steps
        seconds = pace * (self._total - step)
        return f" eta {int(seconds // 60)}:{int(seconds % 60):02d}"

    def stop(self) -> None:
        """Takes the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


@contextmanager
def one_pass(
    reporter: Reporter, pulse: Pulse, what: str, total: int
) -> Iterator[Callable[[int, int], None]]:
    """A pass over images without optimiser steps: shown, and watched for standing still.

    Args:
        what: what is done with the images, for the word about a pass that stands still.
        total: steps of the pass.

    Yields:
        what is to be called after each step, with its number from 1 and the images of all ranks.
    """

    def done(step: int, images: int) -> None:
        pulse.moved()
        reporter.step(None, step, images, {})

    reporter.start(total, 0)
    try:
        with pulse.doing(what):
            yield done
    finally:
        reporter.stop()
