"""The world: who this process is, and the few things that ranks say to each other.

Started by torchrun, a process finds its place in RANK, WORLD_SIZE and LOCAL_RANK; started alone
it is a world of one and no process group is made. Gradients travel over nccl on GPUs and gloo on
CPUs. Everything else (flags, counts, error messages) travels over a gloo group of its own, so
that it neither waits for nor disturbs the GPU's queue.
"""

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from dist_oaa.config.errors import RunError, UserError
from dist_oaa.config.run import RuntimeConfig
from dist_oaa.runtime.faults import arm_faults
from dist_oaa.runtime.files import disk_words
from dist_oaa.runtime.relaunch import check_restarts
from dist_oaa.runtime.watching.heartbeat import Heartbeat, open_heartbeat, silent_heartbeat
from dist_oaa.runtime.watching.pulse import WAITING, Pulse
from dist_oaa.runtime.watching.rollcall import roll_called

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """This process's place among the others."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    control: Any = None
    """gloo group for host-side messages; None in a world of one."""
    heartbeat: Heartbeat = field(default_factory=silent_heartbeat, compare=False, repr=False)
    """What the ranks last said of themselves."""
    until_end: ExitStack = field(default_factory=ExitStack, compare=False, repr=False)
    """What this rank gives back when its stage ends, however that ends."""

    @property
    def is_first(self) -> bool:
        """Whether this rank prints, draws and publishes."""
        return self.rank == 0

    @property
    def pulse(self) -> Pulse:
        """What this rank is doing."""
        return self.heartbeat.pulse

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Elementwise sum over the ranks; float64 or int64 in, the same out."""
        if self.size == 1:
            return values
        tensor = torch.from_numpy(np.ascontiguousarray(values).copy())
        with self.pulse.doing(WAITING):
            dist.all_reduce(tensor, group=self.control)
        return tensor.numpy()

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self.pulse.doing(WAITING):
            dist.all_gather_object(values, value, group=self.control)
        return values

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.size > 1:
            with self.pulse.doing(WAITING):
                dist.barrier(group=self.control)

    def agree(self, action: Callable[[], Value]) -> Value:
        """Runs an action on every rank; where any fails, all raise the first rank's error.

        So that a mistake seen by one rank ends all of them with one message, not with a time-out.

        Raises:
            UserError: when the action raised one, or an OSError (a full disk), on any rank.
            RunError: when it raised one.
        """
        result, problem = None, None
        try:
            result = action()
        except RunError as error:
            problem = error
        except UserError as error:
            problem = str(error)
        except OSError as error:
            words = error.strerror or error
            if error.filename:
                words = f"{error.filename}: {disk_words(error, Path(error.filename))}"
            problem = f"a file could not be read or written: {words}"
        self.raise_first(problem)
        return result

    def raise_first(self, problem: str | RunError | None) -> None:
        """Raises the first problem that any rank has, on all ranks.

        Raises:
            UserError: when it is a sentence.
            RunError: when it is one.
        """
        for each in self.gather(problem):
            if isinstance(each, RunError):
                raise each
            if each is not None:
                raise UserError(each)

    def only_first(self, action: Callable[[], Value]) -> Value:
        """Runs an action on rank 0 and gives its (picklable) result to all ranks.

        Raises:
            UserError: when it raised one.
        """
        result = self.agree(lambda: action() if self.is_first else None)
        return self.gather(result)[0]


@contextmanager
def open_world(config: RuntimeConfig) -> Iterator[World]:
    """Joins the process group that torchrun's environment describes, and leaves it at the end.

    Raises:
        UserError: when runtime.device is cuda and there is none, OAA_FAULT cannot be read, or
            torchrun could not start the ranks again as it was told to.
        RunError: when the other ranks cannot be reached within runtime.timeout_s; a LostContact
            that names the missing ones where they were there before.
    """
    arm_faults()
    check_restarts()
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = choose_device(config.device, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(config.threads or arithmetic_threads())
    if size == 1:
        with open_heartbeat(config, rank, size) as heartbeat:
            yield World(rank, size, local_rank, device, heartbeat=heartbeat)
        return
    timeout = datetime.timedelta(seconds=config.timeout_s)
    try:
        backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timeout)
        control = dist.new_group(backend="gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"rank {rank} of {size} could not join the other ranks: {error}") from error
    try:
        with (
            open_heartbeat(config, rank, size) as heartbeat,
            roll_called(heartbeat, config, rank, size, control),
        ):
            yield World(rank, size, local_rank, device, control, heartbeat)
    finally:
        dist.destroy_process_group()


def choose_device(setting: str, local_rank: int) -> torch.device:
    """The device of a rank: its own GPU where there is one.

    Raises:
        UserError: when cuda is asked for and missing, or a node has more ranks than GPUs.
    """
    if setting == "cpu" or (setting == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("runtime.device is cuda, but no CUDA device is usable; use cpu or auto")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"{local_rank + 1} processes were started on a node with "
            f"{torch.cuda.device_count()} GPUs; lower --nproc-per-node or set runtime.device cpu"
        )
    return torch.device("cuda", local_rank)


def arithmetic_threads() -> int:
    """Threads of this rank's arithmetic where no setting says how many.

    What OMP_NUM_THREADS asks for, where this is the only rank of its node (of several, torchrun
    sets it to 1 whatever the machine has); otherwise `threads_per_rank`.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    is_only = os.environ.get("LOCAL_WORLD_SIZE", "1") == "1"
    return int(asked) if is_only and asked.isdigit() and int(asked) else threads_per_rank()


def threads_per_rank() -> int:
    """Arithmetic threads that share the usable cores of this node among its ranks, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
