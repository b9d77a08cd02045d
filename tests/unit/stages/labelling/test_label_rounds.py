"""Sharing images among ranks, with ranks that are threads of the test."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.config.errors import Interrupted, RunError, UserError
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.progress import Reporter
from dist_oaa.stages.labelling.rounds import share, work_through


@dataclass
class Table:
    """Where the threads meet."""

    size: int
    values: dict[int, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=20)

    def exchange(self, rank: int, value: object) -> list:
        self.values[rank] = value
        self.barrier.wait()
        everything = [self.values[r] for r in range(self.size)]
        self.barrier.wait()
        return everything


@dataclass(frozen=True)
class ThreadWorld(World):
    """A rank that is a thread."""

    table: Table = None

    def sum(self, values: np.ndarray) -> np.ndarray:
        return np.sum(self.table.exchange(self.rank, values), axis=0)

    def gather(self, value: object) -> list:
        return self.table.exchange(self.rank, value)


def on_all_ranks(size: int, total: int, results_of, at_once: int) -> list:
    """What each rank took, or the error that it raised."""
    table = Table(size)

    def one(rank: int):
        world = ThreadWorld(rank, size, rank, torch.device("cpu"), table=table)
        taken: list[int] = []
        results = results_of(share(world, range(total)))
        try:
            work_through(world, Reporter(False, 1), results, total, taken.append, at_once)
        except (UserError, RunError, Interrupted) as error:
            return error
        return taken

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(one, range(size)))


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 5), total=st.integers(0, 40), at_once=st.integers(1, 17))
def test_every_image_is_taken_exactly_once(size, total, at_once):
    taken = on_all_ranks(size, total, iter, at_once)
    assert sorted(n for part in taken for n in part) == list(range(total))
    assert taken == [list(range(total))[rank::size] for rank in range(size)]


def failing(errors: dict[int, Exception], mine: list[int]):
    for number in mine:
        if number in errors:
            raise errors[number]
        yield number


@pytest.mark.parametrize(
    ("errors", "kind", "sentence"),
    [
        ({7: UserError("bad image")}, UserError, "bad image"),
        ({7: RunError("a worker died")}, RunError, "a worker died"),
        ({6: Interrupted("stopped by SIGTERM"), 7: UserError("bad")}, UserError, "bad"),
        ({7: OSError(28, "No space left on device", "x.png")}, UserError, "x.png: No space left"),
        ({5: Interrupted("stopped by SIGTERM")}, Interrupted, "SIGTERM after 5 of 30 images"),
    ],
)
def test_all_ranks_end_with_the_same_error(errors, kind, sentence):
    found = on_all_ranks(3, 30, partial(failing, errors), 2)
    assert {type(error) for error in found} == {kind}
    assert len({str(error) for error in found}) == 1
    assert sentence in str(found[0])
