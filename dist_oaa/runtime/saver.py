"""Checkpoints that are written while training goes on.

A checkpoint is begun between two steps, with copies of all that belongs to it; one thread a rank
then does the writing. It passes through three states:

    IDLE --begin--> WRITING --every rank has written its maps--> PUBLISHING --rank 0 has--> IDLE

All ranks change state together, since they do so on numbers that they have summed: every rank
adds to the sum of each step, which is taken anyway, whether its thread has ended or failed. So
 - rank 0 publishes only what every rank has made durable, and nothing once any rank has failed;
 - nobody starts to write the next generation before this one is published: a row of the store
   has two slots, and the next one overwrites the one before this;
 - a failure on one rank ends all of them at the same step, with the last checkpoint in force.

The thread speaks to no other rank and to no GPU, and computes nothing: it needs no arithmetic
threads of its own, and hashing, copying and writing leave Python's lock to the training.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from enum import Enum
from pathlib import Path

import numpy as np

from dist_oaa.config.errors import RunError, UserError
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.faults import fault_point
from dist_oaa.runtime.files import disk_words
from dist_oaa.runtime.watching.pulse import CHECKPOINT


class State(Enum):
    """Where the checkpoint on its way is; the same on all ranks."""

    IDLE = "none is on its way"
    WRITING = "each rank writes its maps"
    PUBLISHING = "rank 0 writes the rest and publishes"


class Saver:
    """One checkpoint at a time on its way to the disk.

    All methods but `close` are called by all ranks at the same point of the run.
    """

    def __init__(self, world: World) -> None:
        self.state = State.IDLE
        self.waited_s = 0.0
        """Seconds that `finish` has waited, in all."""
        self._world = world
        # The thread starts with the first checkpoint. It is no daemon: it ends what it has begun.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="oaa-checkpoint")
        self._job: Future[None] | None = None
        self._publish: Callable[[], None] = _nothing

    def begin(self, write: Callable[[], None], publish: Callable[[], None] | None) -> None:
        """Starts a checkpoint; the one before must be published.

        Args:
            write: makes this rank's part durable.
            publish: on rank 0, makes the whole take effect; called when all ranks have written.
        """
        assert self.state is State.IDLE, f"a checkpoint is on its way: {self.state.value}"
        self._publish = publish or _nothing
        self._enter(State.WRITING, lambda: _write(write))

    def sum(self, numbers: Sequence[int]) -> list[int]:
        """Sums integers over the ranks, and lets the checkpoint on its way move on.

        Raises:
            UserError: when the disk of any rank is full or fails; the same on all ranks.
            Exception: what else the thread of this rank ran into, as it was.
            RunError: when it was another rank that ran into such a thing.
        """
        ended = self._job is not None and self._job.done()
        failed = ended and self._job.exception() is not None
        request = np.array([*numbers, ended, failed], dtype=np.int64)
        *sums, ends, failures = self._world.sum(request).tolist()
        if failures:
            self._fail()
        if ends == self._world.size:
            self._move_on()
        return sums

    def finish(self) -> None:
        """Waits until the checkpoint on its way, if there is one, is published.

        Raises:
            as `sum` does.
        """
        start = time.monotonic()
        with self._world.pulse.doing(CHECKPOINT):
            while self.state is not State.IDLE:
                wait([self._job])
                self.sum([])
        self.waited_s += time.monotonic() - start

    def close(self) -> None:
        """Waits for what this rank's thread is doing, however it ends, and ends the thread.

        Safe at any time, also when the other ranks are gone: nothing may be closed under it.
        """
        self._thread.shutdown(wait=True)

    def _enter(self, state: State, action: Callable[[], None]) -> None:
        self.state, self._job = state, self._thread.submit(_named, action)

    def _move_on(self) -> None:
        if self.state is State.WRITING:
            self._enter(State.PUBLISHING, self._publish)
        else:
            self._forget()

    def _forget(self) -> None:
        # The copies go with the functions that hold them.
        self.state, self._job, self._publish = State.IDLE, None, _nothing

    def _fail(self) -> None:
        """Raises what went wrong, on all ranks."""
        job = self._job
        error = job.exception() if job.done() else None
        self._forget()
        expected = isinstance(error, UserError)
        problems = self._world.gather((str(error), expected) if error else None)
        if error and not expected:
            raise error
        for problem in problems:
            if problem and problem[1]:
                raise UserError(problem[0])
        rank = next(rank for rank, problem in enumerate(problems) if problem)
        raise RunError(
            f"rank {rank} failed while it wrote a checkpoint, its output says how "
            f"({' '.join(problems[rank][0].split())}); the last checkpoint stays in force"
        )


@contextlib.contextmanager
def open_saver(world: World) -> Iterator[Saver]:
    """A saver that leaves nothing half-done: its thread has ended when the block has.

    The checkpoint on its way is finished at the end of the block, and also after a UserError or a
    RunError: all ranks have raised the same one and can still talk, and what is on its way is of
    a sound step. After anything else (a signal's second Ctrl-C, a rank that is gone) each rank
    completes only what its own thread is doing.

    Raises:
        as `Saver.sum` does, unless the block has raised an error of its own.
    """
    saver = Saver(world)
    try:
        yield saver
        saver.finish()
    except (UserError, RunError):
        with contextlib.suppress(UserError, RunError):
            saver.finish()
        raise
    finally:
        saver.close()


def _named(action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        words = disk_words(error, Path(error.filename)) if where else error.strerror or error
        raise UserError(
            f"a checkpoint could not be written, the last checkpoint stays in force: {where}{words}"
        ) from error


def _write(write: Callable[[], None]) -> None:
    fault_point("saver.write.before")
    write()
    fault_point("saver.write.after")


def _nothing() -> None:
    pass
