"""What a rank notes of itself while it works: what it is doing, and where its steps' time goes.

The training thread writes here, at the cost of a few microseconds a step; the threads of
heartbeat.py read. Nothing here speaks to another rank.

A step's own time is its whole time without that spent waiting for others. Under DDP a backward
pass ends by waiting for everybody's gradients; `backward` tells that wait from the rank's own
work: a callback that the autograd engine runs when the last gradient is there, before DDP's own.
"""

import os
import socket
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.autograd import Variable

WAITING = "waiting for the other ranks"
LOADING = "loading images"
CHECKPOINT = "writing a checkpoint"
STARTING = "starting"
TRAINING = "training"

WINDOW = 20
"""Steps whose times are kept."""
WARM_UP = 5
"""Steps of a process that are not timed: compiling, first allocations, workers that start."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step of one rank."""

    own_s: float
    """Its own work, images included."""
    loading_s: float
    """Of it, waiting for images."""
    waited_s: float
    """Waiting for other ranks, beside its own work."""
    images: int
    """The rank's images of the step."""


class Pulse:
    """What this process is doing; written by one thread, read by others.

    Args:
        rank: its place among the ranks.
        timed: whether backward passes are watched, as `runtime.watch` says.
        clock: seconds that never run backwards.
    """

    def __init__(
        self, rank: int = 0, timed: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rank, self.timed, self.clock = rank, timed, clock
        self.host, self.pid = socket.gethostname(), os.getpid()
        self.epoch = self.step = 0
        self.step_at = self.changed_at = clock()
        """When the last step ended, and when the activity last changed."""
        self.recent: deque[StepTime] = deque(maxlen=WINDOW)
        self.hint: Callable[[], str] = str
        """Says more of the activity, such as which data worker is awaited; any thread may ask."""
        self._activities: list[str] = []
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._steps, self._mark = 0, None
        self.restart()

    @property
    def name(self) -> str:
        """`rank 2 (node7)`."""
        return f"rank {self.rank} ({self.host})"

    @property
    def activities(self) -> list[str]:
        """What is being done, outermost first; empty where nobody has said."""
        mark, activities = self._mark, list(self._activities)
        if mark is not None and mark.query():  # the GPU has done its own part of the step
            activities.append(WAITING)
        return activities

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Notes an activity for the length of a block, and the time that it takes."""
        start = self._begin(what)
        try:
            yield
        finally:
            self._end(what, start)

    def _begin(self, what: str) -> float:
        now = self.clock()
        if not self._activities:
            self.step_at = now
        self._activities.append(what)
        self.changed_at = now
        return now

    def _end(self, what: str, start: float) -> None:
        self._activities.pop()
        self.changed_at = now = self.clock()
        self._spent[what] += now - start

    def restart(self) -> None:
        """Leaves what happened since the last step (measuring, a checkpoint) out of its time."""
        self._since = self.clock()
        self._before = self._spent[WAITING], self._spent[LOADING]

    def moved(self) -> None:
        """Notes that a pass without optimiser steps has come further."""
        self.step_at = self.clock()

    def step_done(self, epoch: int, step: int, images: int) -> None:
        """Notes the end of an optimiser step, with this rank's images in it."""
        now, (waited, loaded) = self.clock(), self._before
        self.epoch, self.step, self.step_at = epoch, step, now
        self._steps += 1
        if self._steps > WARM_UP:
            waited_s, loading_s = self._spent[WAITING] - waited, self._spent[LOADING] - loaded
            own_s = max(0.0, now - self._since - waited_s)
            self.recent.append(StepTime(own_s, loading_s, waited_s, images))
        self.restart()

    def backward(self, loss: torch.Tensor) -> Callable[[], None]:
        """A backward pass that ends with waiting for other ranks.

        Returns:
            what takes the wait out of the step's own time; to be called once the loss has been
            read, which is when a GPU has finished.
        """
        if not self.timed:
            loss.backward()
            return _nothing
        return self._on_gpu(loss) if loss.is_cuda else self._on_cpu(loss)

    def _on_cpu(self, loss: torch.Tensor) -> Callable[[], None]:
        begun: list[float] = []
        _when_gradients_are_there(loss, lambda: begun.append(self._begin(WAITING)))
        try:
            loss.backward()
        finally:
            for start in begun:
                self._end(WAITING, start)
        return _nothing

    def _on_gpu(self, loss: torch.Tensor) -> Callable[[], None]:
        own, all_ = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def mark() -> None:
            own.record()
            self._mark = own

        _when_gradients_are_there(loss, mark)
        loss.backward()
        all_.record()

        def settle() -> None:
            self._mark = None
            self._spent[WAITING] += own.elapsed_time(all_) / 1e3

        return settle


def _when_gradients_are_there(loss: torch.Tensor, action: Callable[[], object]) -> None:
    # Callbacks run in the order in which they were queued: DDP queues its own, which waits, once
    # its last bucket is full; this one is queued at the beginning of the pass.
    engine = Variable._execution_engine
    loss.register_hook(lambda _: engine.queue_callback(action))


def _nothing() -> None:
    pass
