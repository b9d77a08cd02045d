"""Many images over all ranks: each takes every W-th, and all stop together.

Ranks report to each other after every few images, so that a problem of one of them, or a signal,
ends all of them there and not after hours at the end.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from dist_oaa.config.errors import Interrupted, RunError, UserError
from dist_oaa.runtime.distributed import World, threads_per_rank
from dist_oaa.runtime.progress import Reporter, one_pass

Item = TypeVar("Item")
Result = TypeVar("Result")

ROUND = 16
"""Images of each rank between two reports."""


def share(world: World, items: Sequence[Item]) -> list[Item]:
    """This rank's items: rank r takes r, r + W, ... of them."""
    return list(items[world.rank :: world.size])


def processes_of(setting: int) -> int:
    """Processes of this rank: as set, else its share of the machine's cores."""
    return setting or threads_per_rank()


def work_through(
    world: World,
    reporter: Reporter,
    results: Iterator[Result],
    total: int,
    take: Callable[[Result], None],
    at_once: int = ROUND,
) -> None:
    """Takes the results of all images; called by all ranks.

    Args:
        results: those of this rank's share of the images, as they come.
        total: images of all ranks.
        take: called with each result of this rank.
        at_once: images of each rank between two reports.

    Raises:
        UserError, RunError, Interrupted: the first one that any rank met, on all ranks; a failing
            disk is the user's to mend.
    """
    mine = len(range(world.rank, total, world.size))
    rounds = -(-len(range(0, total, world.size)) // at_once)
    done = 0
    with one_pass(reporter, world.pulse, "working through the images", rounds) as tell:
        for number in range(rounds):
            count = max(0, min(at_once, mine - number * at_once))
            taken, error = _take_some(results, count, take)
            images, errors = world.sum(np.array([taken, error is not None])).tolist()
            done += images
            if errors:
                _raise_first(world, error, done, total)
            tell(number + 1, images)


def _take_some(
    results: Iterator[Result], count: int, take: Callable[[Result], None]
) -> tuple[int, Exception | None]:
    """Takes as many results as it can; returns their number and why there were no more."""
    taken = 0
    try:
        while taken < count:
            take(next(results))
            taken += 1
    except (UserError, RunError, Interrupted) as error:
        return taken, error
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or error
        return taken, UserError(f"a file could not be read or written: {place}{reason}")
    return taken, None


def _raise_first(world: World, error: Exception | None, done: int, total: int) -> None:
    """A mistake goes before a signal: it would meet whoever starts again."""
    errors = [each for each in world.gather(error) if each is not None]
    first = min(errors, key=lambda each: isinstance(each, Interrupted))
    if isinstance(first, Interrupted):
        raise Interrupted(
            f"{first} after {done} of {total} images; nothing was left behind, start it again"
        )
    raise first
