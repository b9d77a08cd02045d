"""Whether an attempt goes on from the run's last checkpoint though nobody typed `--resume`."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.latest import LATEST
from dist_oaa.runtime.lease import held_leases
from dist_oaa.runtime.relaunch import launcher, was_started_again

Config = TypeVar("Config", bound=Any)
POLL_S = 0.2


def going_on(config: Config, world: World) -> Config:
    """The settings of a training stage, with `resume` set where torchrun has started it again.

    A run that never reached a checkpoint begins anew; a first start is left as it was asked for,
    so that a folder with another run in it is refused.

    Args:
        config: the settings of a stage with `run_dir`, `resume` and `runtime`.
    """
    run_dir = Path(config.run_dir)
    launchers = world.gather(launcher())
    if not world.only_first(lambda: was_started_again(run_dir, launchers)):
        return config
    # Half of what the other ranks wait for rank 0.
    world.only_first(lambda: wait_for_writers(run_dir, config.runtime.timeout_s / 2, say))
    resume = world.only_first(lambda: (run_dir / "checkpoints" / LATEST).exists())
    return dataclasses.replace(config, resume=resume)


def wait_for_writers(run_dir: Path, seconds: float, say: Callable[[str], None]) -> None:
    """Waits until no process of an earlier attempt holds the run directory or a shard.

    A node that is only cut off from the others still lives until its own time-out, may see the
    same disks, and may even publish a checkpoint that was on its way: what this attempt goes on
    from must be read after that. Where it lasts longer, the training's own lease says who holds it.
    """
    deadline, told = time.monotonic() + seconds, False
    while held := held_leases(run_dir):
        if time.monotonic() > deadline:
            return
        if not told:
            say(f"waiting for a process of the attempt before, which still holds {held[0]}")
            told = True
        time.sleep(POLL_S)


def say(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)
