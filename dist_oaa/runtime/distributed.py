"""The world: who this process is, and the few things that ranks say to each other.

Started by torchrun, a process finds its place in RANK, WORLD_SIZE and LOCAL_RANK; started alone
it is a world of one and no process group is made. Gradients travel over nccl on GPUs and gloo on
CPUs. Everything else (flags, counts, error messages) travels over a gloo group of its own, so
that it neither waits for nor disturbs the GPU's queue.
"""

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from dist_oaa.config.errors import RunError, UserError
from dist_oaa.config.run import RuntimeConfig

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

    @property
    def is_first(self) -> bool:
        """Whether this rank prints, draws and publishes."""
        return self.rank == 0

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Elementwise sum over the ranks; float64 or int64 in, the same out."""
        if self.size == 1:
            return values
        tensor = torch.from_numpy(np.ascontiguousarray(values).copy())
        dist.all_reduce(tensor, group=self.control)
        return tensor.numpy()

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.size > 1:
            dist.barrier(group=self.control)

    def agree(self, action: Callable[[], Value]) -> Value:
        """Runs an action on every rank; where any fails, all raise the first rank's error.

        So that a mistake seen by one rank ends all of them with one message, not with a time-out.

        Raises:
            UserError: when the action raised one, or an OSError (a full disk), on any rank.
        """
        result, problem = None, None
        try:
            result = action()
        except UserError as error:
            problem = str(error)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            problem = f"a file could not be read or written: {place}{error.strerror or error}"
        self.raise_first(problem)
        return result

    def raise_first(self, problem: str | None) -> None:
        """Raises the first problem that any rank has, on all ranks.

        Raises:
            UserError: when there is one.
        """
        for message in self.gather(problem):
            if message is not None:
                raise UserError(message)

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
        UserError: when runtime.device is cuda and there is none.
        RunError: when the other ranks cannot be reached within runtime.timeout_s.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = choose_device(config.device, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(config.threads or threads_per_rank())
    if size == 1:
        yield World(rank, size, local_rank, device)
        return
    timeout = datetime.timedelta(seconds=config.timeout_s)
    try:
        backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timeout)
        control = dist.new_group(backend="gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"rank {rank} of {size} could not join the other ranks: {error}") from error
    try:
        yield World(rank, size, local_rank, device, control)
    except (UserError, RunError):
        raise
    except dist.DistError as error:
        raise lost_contact(rank, error) from error
    except RuntimeError as error:
        # gloo reports a vanished peer as a plain RuntimeError.
        if "gloo" in str(error).lower():
            raise lost_contact(rank, error) from error
        raise
    finally:
        dist.destroy_process_group()


def lost_contact(rank: int, error: Exception) -> RunError:
    """The error of a rank whose peers have gone or hang."""
    reason = " ".join(str(error).split())[:300]
    return RunError(
        f"rank {rank} lost contact with the other ranks ({reason}); "
        "look for the first rank that failed, then continue with --resume"
    )


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


def threads_per_rank() -> int:
    """Arithmetic threads that share the usable cores of this node among its ranks, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
