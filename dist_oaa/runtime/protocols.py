"""What the training loop asks of those who bring the training: a stage and its batches."""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from dist_oaa.runtime.plan import Position


class MicroBatches(Protocol):
    """A rank's images of one step."""

    ids: list[str]
    bad: list[str]

    def __len__(self) -> int: ...

    def split(self, parts: int) -> list["MicroBatches"]:
        """Consecutive parts; one empty part when there are no images. With `optim.exact_elastic`
        the virtual batches of the rank, some of them empty."""


class Stage(Protocol):
    """What a stage brings to the loop."""

    counters: tuple[str, ...]
    """Names of the numbers that `forward` counts, summed over images, ranks and an epoch."""
    broken_counter: str
    """The counter of CAMs that are not finite; empty where there is none."""

    def batches(self, epoch: int, first_step: int) -> Iterator[MicroBatches]:
        """This rank's batches of an epoch, from a step on; empty ones included."""

    def check(self, batch: MicroBatches) -> str | None:
        """A user's mistake in the batch that must stop the run, or None."""

    def forward(self, batch: MicroBatches, epoch: int) -> tuple[torch.Tensor, list[float]]:
        """Sum of the losses of the images and the counters; zero, but attached, when empty."""

    def before_step(self, step: int, total_steps: int) -> float:
        """Sets the learning rate; returns it."""

    def forget_step(self) -> None:
        """Takes back what `forward` did to the stage's own store since `before_step`."""

    def shown(self, totals: dict[str, float]) -> dict[str, float]:
        """Values for the progress line, from the epoch's totals so far."""

    def end_epoch(self, position: Position) -> dict[str, float]:
        """Measures after an epoch; the same numbers on every rank."""

    def snapshot(self, generation: int) -> Callable[[], None]:
        """Copies what changed in the stage's own store since the last snapshot.

        The returned function makes the copy durable as `generation`; it is called in another
        thread, while training goes on, and raises UserError where it fails.
        """
