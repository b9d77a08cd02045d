"""Metrics of a run: one line of JSON and one TensorBoard point for each measurement.

Every name in metrics.jsonl is the TensorBoard tag. A resumed run forgets what was logged after
its checkpoint, so that no step is counted twice.

A line that a full disk has refused is taken back, so that the file ends with a whole one. Event
files are TensorBoard's own; it passes over a cut-off record at the end of one.
"""

import contextlib
import functools
import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.faults import fault_point
from dist_oaa.runtime.files import named_disk_errors, write_atomic


@dataclass(frozen=True)
class Comparison:
    """By what TensorBoard tells finished runs apart, and what it compares."""

    settings: Mapping[str, object]
    compares: Callable[[str], bool]
    """Whether a metric of that name is compared."""


class Tracker:
    """Writes metrics of one stage; made on rank 0 only.

    Args:
        run_dir: the run directory; metrics.jsonl and tensorboard/ lie in it.
        stage: name of the stage, in every JSON line.
        resumed_step: optimiser steps of the checkpoint that the run continues from; later
            entries of an earlier attempt are dropped.
        finished_epochs: epochs that this checkpoint has measured and closed. One written on a
            signal, right after an epoch's last step, has not yet closed that epoch.
        comparison: of the run with others, when it has ended.
    """

    def __init__(
        self,
        run_dir: Path,
        stage: str,
        resumed_step: int | None = None,
        finished_epochs: int = 0,
        comparison: Comparison | None = None,
    ) -> None:
        self._stage, self._comparison = stage, comparison
        self._path = run_dir / "metrics.jsonl"
        purge, again = None, []
        if resumed_step is not None:
            again = self._forget_after(resumed_step, finished_epochs)
            closed = any(entry.get("closes_epoch") for entry in again)
            # An epoch that the checkpoint has not closed is measured again, at its own step: all
            # that TensorBoard has of this step goes, and what still holds is shown anew.
            purge, again = (resumed_step + 1, []) if closed else (max(0, resumed_step), again)
        self._board = run_dir / "tensorboard"
        self._hook = threading.excepthook
        threading.excepthook = functools.partial(_without_event_threads, self._hook)
        with named_disk_errors(self._board):
            self._writer = SummaryWriter(str(self._board), purge_step=purge)
            for entry in again:
                shown = {k: v for k, v in entry.items() if k not in ("stage", "epoch", "step")}
                self._show(shown, entry["step"])
        with named_disk_errors(self._path):
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _forget_after(self, step: int, finished_epochs: int) -> list[dict]:
        """Drops the lines that are void; returns those of this stage that are of this step."""
        if not self._path.exists():
            return []
        kept, at_step = [], []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the end of a line that a crash cut off
            past = entry["step"] <= step
            if entry.get("closes_epoch") and entry["epoch"] >= finished_epochs:
                past = False
            if past or entry["stage"] != self._stage:
                kept.append(line + "\n")
                if entry["step"] == step and entry["stage"] == self._stage:
                    at_step.append(entry)
        data = "".join(kept).encode()
        with named_disk_errors(self._path, len(data)):
            write_atomic(self._path, data)
        return at_step

    def log(
        self, epoch: int, step: int, metrics: Mapping[str, float], closes_epoch: bool = False
    ) -> None:
        """Logs numbers as of `step` optimiser steps in `epoch` (counted from 0).

        The line of an epoch's measurements carries `"closes_epoch": true`.

        A number that does not exist (NaN) is null in JSON and absent from TensorBoard. Names that
        begin with `per_class/` go to JSON alone: TensorBoard shows them as one table.

        Raises:
            UserError: when the disk is full or fails; metrics.jsonl is as it was.
        """
        entry: dict[str, object] = {"stage": self._stage, "epoch": epoch, "step": step}
        if closes_epoch:
            entry["closes_epoch"] = True
        entry |= {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with named_disk_errors(self._board):
            self._show(metrics, step)
        line = (json.dumps(entry) + "\n").encode()
        with named_disk_errors(self._path, len(line)):
            fault_point("tracking.line.before")
            self._append(line)
            fault_point("tracking.line.after")

    def _show(self, metrics: Mapping[str, float | None], step: int) -> None:
        """TensorBoard's points of a line."""
        for name, value in metrics.items():
            exists = value is not None and math.isfinite(value)
            if exists and not name.startswith("per_class/"):
                self._writer.add_scalar(name, value, step)

    def _append(self, line: bytes) -> None:
        end = os.fstat(self._file).st_size
        try:
            rest = line
            while rest:  # a disk that fills takes a part first
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, end)
            raise

    def image(self, tag: str, image_HW3: np.ndarray, step: int) -> None:
        """Shows a uint8 RGB picture in TensorBoard."""
        with named_disk_errors(self._board):
            self._writer.add_image(tag, image_HW3, step, dataformats="HWC")

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Shows a text or a table in TensorBoard."""
        with named_disk_errors(self._board):
            self._writer.add_text(tag, markdown, step)

    def charts(self, layout: Mapping[str, Mapping[str, list]]) -> None:
        """Arranges TensorBoard's custom scalars: {category: {title: ["Multiline", tags]}}."""
        with named_disk_errors(self._board):
            self._writer.add_custom_scalars(layout)

    def compare(self, metrics: Mapping[str, float], step: int) -> None:
        """Enters the run in TensorBoard's comparison of runs, where it has a `comparison`.

        Like all points it counts for `step`, that of the last checkpoint: a run that is killed
        before this is published has its entry forgotten, and is entered again.
        """
        if self._comparison is None:
            return
        settings = {
            k: v if isinstance(v, bool | int | float | str) else str(v)
            for k, v in self._comparison.settings.items()
        }
        figures = {
            f"hparam/{k}": v
            for k, v in metrics.items()
            if self._comparison.compares(k) and math.isfinite(v)
        }
        with named_disk_errors(self._board):
            self._writer.add_hparams(settings, figures, run_name=".", global_step=step)

    def flush(self) -> None:
        """Makes everything logged so far visible to readers.

        Raises:
            UserError: when the disk is full or fails.
        """
        with named_disk_errors(self._board):
            self._writer.flush()

    def close(self) -> None:
        """Ends the event file; what the disk refuses now has been flushed, or said, before."""
        with contextlib.suppress(OSError):
            self._writer.close()
        self._let_go()

    def _let_go(self) -> None:
        os.close(self._file)
        threading.excepthook = self._hook


def open_tracker(
    world: World,
    stack: contextlib.ExitStack,
    charts: Mapping[str, Mapping[str, list]],
    comparison: Comparison,
    run_dir: Path,
    stage: str,
    step: int,
    epochs: int,
) -> Tracker | None:
    """The tracker of a run on rank 0, None on others; the stack closes it.

    Also at a run's beginning it goes on from a step: what an attempt without a checkpoint has
    logged is void.

    Raises:
        UserError: on all ranks, when the disk is full or fails.
    """

    def opened() -> Tracker | None:
        if not world.is_first:
            return None
        made = Tracker(run_dir, stage, step, epochs, comparison)
        tracker = stack.enter_context(contextlib.closing(made))
        tracker.charts(charts)
        return tracker

    return world.agree(opened)


def _without_event_threads(hook: Callable[[Any], object], failed: Any) -> None:
    """Lets the thread of an event file die of a full disk without a traceback.

    It keeps its error and raises it at the next call: that is where it is said, in a sentence.
    """
    ours = type(failed.thread).__name__ == "_AsyncWriterThread"
    if not (ours and isinstance(failed.exc_value, OSError)):
        hook(failed)
