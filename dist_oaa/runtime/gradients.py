"""The gradients of one optimiser step, the same on every rank, and the step itself."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.exact_step import ExactStep
from dist_oaa.runtime.non_finite import finite_gradients
from dist_oaa.runtime.protocols import MicroBatches, Stage
from dist_oaa.runtime.trainable import Trainable


@dataclass(frozen=True)
class Gradients:
    """Computes, applies or drops the gradients of a step."""

    world: World
    stage: Stage
    trainable: Trainable
    micro_batches: int
    """Parts of a rank's batch that are computed one after the other."""
    clip_norm: float
    """Largest norm of all gradients together; 0 for any."""

    def compute(
        self, batch: MicroBatches, epoch: int, images: int
    ) -> tuple[list[float], list[str], bool]:
        """Gradients of the mean loss over the step's images.

        Args:
            batch: this rank's images of the step.
            images: how many the step has on all ranks.

        Returns:
            the sums over all ranks (images, loss, the stage's counters), what is not finite on
            this rank, and whether nothing is on any.
        """
        if self.trainable.exact is not None:
            return self._compute_exactly(self.trainable.exact, batch, epoch, images)
        weight = self.world.size / max(1, images)
        parts = batch.split(self.micro_batches)
        sums = np.zeros(2 + len(self.stage.counters))
        for number, part in enumerate(parts):
            with self._gradients_travel(number == len(parts) - 1):
                loss_sum, counts = self.stage.forward(part, epoch)
                settle = self._backward(self.trainable.scaler.scale(loss_sum * weight))
            sums += [len(part), float(loss_sum.detach()), *counts]
            settle()
        found = self._not_finite(sums)
        totals = self.world.sum(np.append(np.nan_to_num(sums), float(bool(found))))
        return totals[:-1].tolist(), found, not totals[-1]

    def apply(self) -> None:
        """Takes the optimiser's step."""
        if self.clip_norm:
            self.trainable.scaler.unscale_(self.trainable.optimizer)
            parameters = self.trainable.model.parameters()
            torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        self.trainable.scaler.step(self.trainable.optimizer)
        self.trainable.scaler.update()
        self.drop()

    def drop(self) -> None:
        """Forgets the gradients."""
        self.trainable.optimizer.zero_grad(set_to_none=True)

    def _backward(self, loss: torch.Tensor) -> Callable[[], None]:
        """Gradients of a part; under DDP the last one's pass ends with waiting for other ranks."""
        wrapped = self.trainable.wrapped
        if isinstance(wrapped, DistributedDataParallel) and wrapped.require_backward_grad_sync:
            return self.world.pulse.backward(loss)
        loss.backward()
        return lambda: None

    def _compute_exactly(
        self, exact: ExactStep, batch: MicroBatches, epoch: int, images: int
    ) -> tuple[list[float], list[str], bool]:
        parts = batch.split(exact.virtual)
        computed = exact.compute(self.stage, parts, epoch, images)
        found = self._not_finite(exact.own_sums(computed))
        if not computed.can_be_summed:
            found.append("gradient")
        sums, finite = exact.reduce(computed, bool(found))
        return sums.tolist(), found, finite

    def _not_finite(self, sums: np.ndarray) -> list[str]:
        names = ("images", "loss", *self.stage.counters)
        cam = self.stage.broken_counter
        found = ["CAM"] if cam and sums[names.index(cam)] else []
        if not math.isfinite(sums[1]):
            found.append("loss")
        scaler = self.trainable.scaler
        # A scaled gradient may overflow: the scaler then leaves the step out and lowers its scale,
        # until there is nothing left to lower.
        expected = scaler.is_enabled() and scaler.get_scale() > 1
        if not (expected or finite_gradients(self.trainable.model.parameters())):
            found.append("gradient")
        return found

    def _gradients_travel(self, now: bool) -> contextlib.AbstractContextManager:
        if now or not isinstance(self.trainable.wrapped, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.trainable.wrapped.no_sync()
