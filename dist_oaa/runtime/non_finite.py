"""What a run does when a number of a step is not finite: stop, or leave the step out.

Either way it happens on all ranks alike and before the optimiser steps, and
RUN/non_finite.json names the images that each rank had in that step:

    [{"epoch": 1, "step": 7, "action": "skipped",
      "ranks": [{"rank": 0, "not_finite": ["gradient"], "images": ["a", "b"]},
                {"rank": 1, "not_finite": ["loss", "gradient"], "images": ["c"]}]}]

Epochs and steps are counted from 1, as in the run's output. Under DDP a gradient is that of all
ranks together, so all of them report it; a CAM or a loss tells the rank.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dist_oaa.config.errors import RunError, UserError
from dist_oaa.config.model import OptimConfig
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.files import named_disk_errors, write_atomic

RECORD = "non_finite.json"
TELLING = ("CAM", "loss")
"""What points at a rank; a gradient that is not finite follows from either."""
NAMES_SHOWN = 4


@dataclass
class NonFiniteGuard:
    """Applies `optim.on_non_finite`; all methods are called by all ranks at the same point."""

    world: World
    run_dir: Path
    config: OptimConfig
    _kept: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    @property
    def skips(self) -> bool:
        """Whether steps may be left out."""
        return self.config.on_non_finite == "skip_batch"

    def resume_at(self, step: int) -> None:
        """Forgets the steps left out after a checkpoint, since the run repeats them."""
        self.world.agree(lambda: self._forget(step) if self.world.is_first else None)

    def keep(self, model: torch.nn.Module) -> None:
        """Copies what a forward pass changes in the network: running statistics."""
        if self.skips:
            self._kept = [(b, b.clone()) for b in training_buffers(model)]

    def leave_out(self, epoch: int, step: int, ids: Sequence[str], found: Sequence[str]) -> str:
        """Records a step, and takes the network back to `keep` or ends the run.

        Args:
            epoch, step: counted from 1.
            ids: this rank's images of the step.
            found: what was not finite on this rank: CAM, loss, gradient; nothing, where only
                other ranks found something.

        Returns:
            a sentence, the same on all ranks.

        Raises:
            RunError: where optim.on_non_finite is stop.
        """
        parts = self.world.gather((list(found), list(ids)))
        sentence = described(parts, f"epoch {epoch}, step {step}")
        ranks = [
            {"rank": rank, "not_finite": what, "images": images}
            for rank, (what, images) in enumerate(parts)
        ]
        action = "skipped" if self.skips else "stopped"
        entry = {"epoch": epoch, "step": step, "action": action, "ranks": ranks}
        try:
            self.world.agree(lambda: self._add(entry) if self.world.is_first else None)
            place = f"all images of the step are named in {self.run_dir / RECORD}"
        except UserError as error:  # a full disk must not hide what happened
            place = str(error)
        if not self.skips:
            raise RunError(
                f"{sentence}; nothing of this step was applied, {place}: lower optim.lr, use "
                "optim.precision fp32 or set optim.on_non_finite to skip_batch, then continue "
                "with --resume"
            )
        for buffer, copy in self._kept:
            buffer.copy_(copy)
        return f"{sentence}; the step was left out, {place}"

    def check_share(self, left_out: int, steps: int) -> None:
        """Holds the steps that an epoch has left out so far against `optim.skip_limit`.

        Raises:
            RunError: when they are too many.
        """
        if left_out > self.config.skip_limit * steps:
            raise RunError(
                f"{left_out} of the {steps} steps of an epoch were left out because a number was "
                f"not finite, more than the share optim.skip_limit {self.config.skip_limit:g} "
                f"allows; {self.run_dir / RECORD} names their images: lower optim.lr or use "
                "optim.precision fp32, then continue with --resume"
            )

    def _forget(self, step: int) -> None:
        entries = self._entries()
        kept = [e for e in entries if e["action"] == "stopped" or e["step"] <= step]
        if kept != entries:
            self._write(kept)

    def _add(self, entry: dict) -> None:
        self._write([e for e in self._entries() if e["step"] != entry["step"]] + [entry])

    def _entries(self) -> list[dict]:
        path = self.run_dir / RECORD
        if not path.exists():
            return []
        try:
            entries = json.loads(path.read_bytes())
            return [e for e in entries if {"step", "action"} <= e.keys()]
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{path} is no record of this program; move it away") from error

    def _write(self, entries: list[dict]) -> None:
        path = self.run_dir / RECORD
        with named_disk_errors(str(path)):
            write_atomic(path, (json.dumps(entries, indent=1, ensure_ascii=False) + "\n").encode())


def described(parts: Sequence[tuple[list[str], list[str]]], where: str) -> str:
    """`the loss is not finite in epoch 1, step 2 (rank 1; images a, b)`; parts are (found, ids)."""
    telling = [rank for rank, (found, _) in enumerate(parts) if set(found) & set(TELLING)]
    blamed = telling or [rank for rank, (found, _) in enumerate(parts) if found]
    kinds = TELLING if telling else ("gradient",)
    names = [f"the {kind}" for kind in kinds if any(kind in parts[rank][0] for rank in blamed)]
    ids = [name for rank in blamed for name in parts[rank][1]]
    more = f" and {len(ids) - NAMES_SHOWN} more" if len(ids) > NAMES_SHOWN else ""
    return (
        f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not finite in {where} "
        f"({'rank' if len(blamed) == 1 else 'ranks'} {', '.join(map(str, blamed))}; images "
        f"{', '.join(ids[:NAMES_SHOWN])}{more})"
    )


def training_buffers(model: torch.nn.Module) -> list[torch.Tensor]:
    """The buffers of layers in training mode; a frozen batch norm is not in it."""
    layers = (layer for layer in model.modules() if layer.training)
    return [buffer for layer in layers for buffer in layer.buffers(recurse=False)]


def finite_gradients(parameters: Iterable[torch.nn.Parameter]) -> bool:
    """Whether no gradient holds a NaN or an infinity."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return True
    if gradients[0].is_cuda:  # a few launches for all of them, and one transfer
        return math.isfinite(torch.nn.utils.get_total_norm(gradients, math.inf, foreach=True))
    # A sum is the cheapest pass over memory, and finite only if all its terms are.
    if all(math.isfinite(gradient.sum()) for gradient in gradients):
        return True
    return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
