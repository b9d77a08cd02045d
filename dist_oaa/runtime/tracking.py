"""Metrics of a run: one line of JSON and one TensorBoard point for each measurement.

Every name in metrics.jsonl is the TensorBoard tag. A resumed run forgets what was logged after
its checkpoint, so that no step is counted twice.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from dist_oaa.runtime.files import write_atomic


class Tracker:
    """Writes metrics of one stage; made on rank 0 only.

    Args:
        run_dir: the run directory; metrics.jsonl and tensorboard/ lie in it.
        stage: name of the stage, in every JSON line.
        resumed_step: optimiser steps of the checkpoint that the run continues from; later
            entries of an earlier attempt are dropped.
        finished_epochs: epochs that this checkpoint has measured and closed. One written on a
            signal, right after an epoch's last step, has not yet closed that epoch.
    """

    def __init__(
        self,
        run_dir: Path,
        stage: str,
        resumed_step: int | None = None,
        finished_epochs: int = 0,
    ) -> None:
        self._stage = stage
        self._path = run_dir / "metrics.jsonl"
        if resumed_step is not None:
            self._forget_after(resumed_step, finished_epochs)
        purge = None if resumed_step is None else resumed_step + 1
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115

    def _forget_after(self, step: int, finished_epochs: int) -> None:
        if not self._path.exists():
            return
        kept = []
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
        write_atomic(self._path, "".join(kept).encode())

    def log(
        self, epoch: int, step: int, metrics: Mapping[str, float], closes_epoch: bool = False
    ) -> None:
        """Logs numbers as of `step` optimiser steps in `epoch` (counted from 0).

        The line of an epoch's measurements carries `"closes_epoch": true`.

        A number that does not exist (NaN) is null in JSON and absent from TensorBoard. Names that
        begin with `per_class/` go to JSON alone: TensorBoard shows them as one table.
        """
        entry: dict[str, object] = {"stage": self._stage, "epoch": epoch, "step": step}
        if closes_epoch:
            entry["closes_epoch"] = True
        for name, value in metrics.items():
            exists = math.isfinite(value)
            entry[name] = value if exists else None
            if exists and not name.startswith("per_class/"):
                self._writer.add_scalar(name, value, step)
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def image(self, tag: str, image_HW3: np.ndarray, step: int) -> None:
        """Shows a uint8 RGB picture in TensorBoard."""
        self._writer.add_image(tag, image_HW3, step, dataformats="HWC")

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Shows a text or a table in TensorBoard."""
        self._writer.add_text(tag, markdown, step)

    def charts(self, layout: Mapping[str, Mapping[str, list]]) -> None:
        """Arranges TensorBoard's custom scalars: {category: {title: ["Multiline", tags]}}."""
        self._writer.add_custom_scalars(layout)

    def hparams(self, settings: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        """Enters the run in TensorBoard's comparison of hyperparameters."""
        flat = {
            k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()
        }
        finite = {f"hparam/{k}": v for k, v in metrics.items() if math.isfinite(v)}
        self._writer.add_hparams(flat, finite, run_name=".")

    def flush(self) -> None:
        """Makes everything logged so far visible to readers."""
        self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        self._writer.close()
        self._file.close()
