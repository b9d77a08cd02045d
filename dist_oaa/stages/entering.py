"""How a training stage is entered: settings, the world of its ranks, signals, its run directory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dist_oaa.config.load import parse_config
from dist_oaa.runtime.distributed import World, open_world
from dist_oaa.runtime.exact_step import repeatable
from dist_oaa.runtime.lease import Lease
from dist_oaa.runtime.rundir import begin_training
from dist_oaa.runtime.signals import StopFlag, stop_on_signals
from dist_oaa.stages.going_on import going_on


def enter(
    config_class: type, train: Callable[[Any, World, StopFlag], object], prog: str, argv: list[str]
) -> int:
    """Reads the settings and trains on this rank; returns the exit code.

    Raises:
        UserError, RunError, Interrupted: as the training does, the same on all ranks.
    """
    config = parse_config(config_class, prog, argv)
    with (
        open_world(config.runtime) as world,
        world.until_end,
        repeatable(config.optim, config.runtime, world),
        stop_on_signals() as stop,
    ):
        train(going_on(config, world), world, stop)
    return 0


def begin(world: World, run_dir: Path, config_yaml: str, class_names: Sequence[str]) -> list[str]:
    """`begin_training` in a run directory that is this training's alone until its stage ends.

    Returns:
        one line for each setting that differs from those saved there before.

    Raises:
        UserError: when another process trains there (named), or the folder cannot be written.
    """

    def first() -> list[str]:
        lease = Lease(run_dir / "leases" / "run.lock")
        world.until_end.callback(lease.release)
        return begin_training(run_dir, config_yaml, class_names)

    return world.only_first(first)
