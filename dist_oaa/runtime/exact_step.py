"""A training step that is the same to the last bit at any number of processes.

A step's images are dealt into V virtual batches (`optim.virtual_batches`), by their shards and
therefore always the same ones. Whoever owns a virtual batch runs it forward and backward by
itself: same images, same order, same padding, same arithmetic, hence the same bits. What is then
added up over all of them is added without rounding (gradients: exact_sums.py) or in the order of
their numbers (losses and counters).

What this rests on: deterministic kernels, one number of arithmetic threads, no running statistics,
and processes on the same kind of device with the same libraries.

Legend: V virtual batches, T parameters.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from dist_oaa.config.errors import UserError, in_one_line
from dist_oaa.config.model import OptimConfig
from dist_oaa.config.run import RuntimeConfig
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.exact_sums import (
    FixedPoint,
    Gradients,
    can_be_summed,
    largest_magnitudes,
    shifts,
)
from dist_oaa.runtime.protocols import MicroBatches, Stage
from dist_oaa.runtime.watching.pulse import WAITING

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_WORKSPACE = ":4096:8"
"""With it cuBLAS repeats its results (its documentation, "Results reproducibility")."""


@dataclass
class Computed:
    """This rank's virtual batches of a step, computed and not yet added up."""

    terms: list[Gradients]
    """The gradients of each that had images."""
    rows: np.ndarray
    """float64 (V, images, loss, counters, T largest magnitudes); 0 where another rank owns it."""
    can_be_summed: bool
    """Whether all gradients are finite, and so will their sum be."""


class ExactStep:
    """Forward, backward and the sums of a step; all methods are called by all ranks alike.

    Args:
        model: the bare network; not under DDP, whose own sums must not happen.
        virtual: V.
    """

    def __init__(self, world: World, model: torch.nn.Module, virtual: int) -> None:
        self.world, self.virtual = world, virtual
        self._fixed = FixedPoint([p for p in model.parameters() if p.requires_grad])

    def compute(
        self, stage: Stage, parts: Sequence[MicroBatches], epoch: int, images: int
    ) -> Computed:
        """Runs this rank's virtual batches forward and backward, each by itself.

        Args:
            parts: in the order of their numbers rank, rank + world, ...; some may be empty.
            images: of the step, on all ranks together.
        """
        own = range(self.world.rank, self.virtual, self.world.size)
        parameters = self._fixed.parameters
        rows = np.zeros((self.virtual, 2 + len(stage.counters) + len(parameters)))
        terms: list[Gradients] = []
        for number, part in zip(own, parts, strict=True):
            loss_sum, counts, gradients = 0.0, [0.0] * len(stage.counters), [None] * len(parameters)
            if len(part):
                loss, counts = stage.forward(part, epoch)
                (loss / images).backward()
                loss_sum = float(loss.detach())
                gradients = self._take()
                terms.append(gradients)
            rows[number] = [len(part), loss_sum, *counts, *largest_magnitudes(gradients)]
        largest_T = rows[own, -len(parameters) :]
        return Computed(terms, rows, can_be_summed(largest_T, self.virtual))

    def _take(self) -> list[torch.Tensor | None]:
        """The gradients as they are, leaving none behind."""
        gradients = [p.grad for p in self._fixed.parameters]
        for parameter in self._fixed.parameters:
            parameter.grad = None
        return gradients

    def own_sums(self, computed: Computed) -> np.ndarray:
        """Images, loss and counters of this rank's virtual batches together."""
        return computed.rows[:, : -len(self._fixed.parameters)].sum(axis=0)

    def reduce(self, computed: Computed, broken: bool) -> tuple[np.ndarray, bool]:
        """Adds up what all ranks have computed; each parameter then has the step's gradient.

        Args:
            broken: something of this rank's is not finite.

        Returns:
            images, loss and counters of all ranks, and whether everything is finite; where it is
            not, no parameter has a gradient.
        """
        rows = np.nan_to_num(computed.rows, posinf=0.0, neginf=0.0)
        # Each number comes from one rank and is added to zeros alone, so nothing is rounded.
        flat = self.world.sum(np.append(rows.ravel(), float(broken)))
        rows, count = flat[:-1].reshape(rows.shape), len(self._fixed.parameters)
        sums = np.zeros(rows.shape[1] - count)
        for row in rows:
            sums += row[:-count]
        if flat[-1]:
            return sums, False
        if sums[0]:
            shift_T = shifts(rows[:, -count:].max(axis=0), self.virtual)
            total = self._fixed.sum(computed.terms, shift_T)
            computed.terms.clear()
            if self.world.size > 1:
                with self.world.pulse.doing(WAITING):
                    dist.all_reduce(total)
            self._fixed.spread(shift_T)
        return sums, True


@contextlib.contextmanager
def repeatable(optim: OptimConfig, runtime: RuntimeConfig, world: World) -> Iterator[None]:
    """Makes torch compute alike at any number of processes, where `optim.exact_elastic` says so.

    Raises:
        UserError: more processes than virtual batches, or an operation that cannot be repeated.
    """
    if not optim.exact_elastic:
        yield
        return
    if world.size > optim.virtual_batches:
        raise UserError(
            f"{world.size} processes were started, but optim.virtual_batches is "
            f"{optim.virtual_batches}, expected at least one virtual batch for each process with "
            "optim.exact_elastic"
        )
    on_gpu = world.device.type == "cuda"
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    threads, filled = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory
    if on_gpu:
        os.environ.setdefault(CUBLAS, CUBLAS_WORKSPACE)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing reads such memory
    torch.backends.cudnn.benchmark = False
    if not on_gpu:
        # A sum over several threads is cut where their number says. Shared cores would give each
        # world its own number.
        torch.set_num_threads(runtime.threads or 1)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise UserError(
            "optim.exact_elastic is true, but this network needs an operation that this device "
            f"cannot repeat: {in_one_line(error)}"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.set_num_threads(threads)
