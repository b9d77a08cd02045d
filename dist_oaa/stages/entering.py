"""How a training stage is entered: settings, the world of its ranks, signals."""

from collections.abc import Callable
from typing import Any

from dist_oaa.config.load import parse_config
from dist_oaa.runtime.distributed import World, open_world
from dist_oaa.runtime.exact_step import repeatable
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
        repeatable(config.optim, config.runtime, world),
        stop_on_signals() as stop,
    ):
        train(going_on(config, world), world, stop)
    return 0
