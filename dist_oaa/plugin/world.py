"""Who this process is among those that the user's own program has started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.distributed import World


def find_place(rank: int | None = None, world: int | None = None) -> tuple[int, int]:
    """(rank, world size) of this process: as given, of torch.distributed, or a world of one.

    Raises:
        UserError: when torchrun has started several processes that have not joined yet, or a rank
            does not fit its world.
    """
    if rank is None or world is None:
        joined = dist.is_available() and dist.is_initialized()
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if world is None and not joined and started > 1 and "RANK" in os.environ:
            raise UserError(
                f"WORLD_SIZE is {started}, but torch.distributed is not initialised; call "
                "torch.distributed.init_process_group() before the accumulator and its sampler "
                "are made"
            )
        rank = rank if rank is not None else dist.get_rank() if joined else 0
        world = world if world is not None else dist.get_world_size() if joined else 1
    if not 0 <= rank < world:
        raise UserError(f"rank is {rank} in a world of {world}, expected 0 to {world - 1}")
    return rank, world


def find_world(device: torch.device | str | None) -> World:
    """This process with a gloo group of its own for messages; all ranks call it together.

    Args:
        device: where the maps lie; None for the current CUDA device where there is one, else the
            CPU.

    Raises:
        UserError: see find_place.
    """
    rank, size = find_place()
    if device is None:
        cuda = torch.cuda.is_available()
        device = torch.device("cuda", torch.cuda.current_device()) if cuda else "cpu"
    # Messages of their own neither wait for nor disturb the gradients on their way.
    control = dist.new_group(backend="gloo") if size > 1 else None
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return World(rank, size, local_rank, torch.device(device), control)


def leave(world: World) -> None:
    """Gives the group of find_world back, where the user's program has not ended it already."""
    if world.control is not None and dist.is_initialized():
        dist.destroy_process_group(world.control)


@contextmanager
def given_back_on_error(world: World) -> Iterator[None]:
    """Gives the group of find_world back when what follows fails."""
    try:
        yield
    except BaseException:
        leave(world)
        raise
