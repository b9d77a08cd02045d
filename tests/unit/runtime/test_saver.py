"""Checkpoints beside training: ranks played by threads, disks that are slow, full or broken."""

import errno
import random
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.config.errors import RunError, UserError
from dist_oaa.runtime.saver import Saver, State, open_saver
from dist_oaa.runtime.watching.pulse import Pulse

LIMIT = 20  # seconds until a test that hangs fails


class Peers:
    """What threads that play the ranks of one world share."""

    def __init__(self, size):
        self.barrier = threading.Barrier(size, timeout=LIMIT)
        self.given = [None] * size


class PlayedWorld:
    """The part of World that a saver uses; ranks that do not call alike hang and fail the test."""

    def __init__(self, peers, rank):
        self.rank, self.size, self._peers = rank, len(peers.given), peers
        self.is_first, self.sums, self.pulse = rank == 0, 0, Pulse(rank)

    def gather(self, value):
        self._peers.given[self.rank] = value
        self._peers.barrier.wait()
        values = list(self._peers.given)
        self._peers.barrier.wait()
        return values

    def sum(self, values):
        self.sums += 1
        return np.sum(self.gather(values), axis=0)


def on_ranks(size, body):
    """Runs body(world) as each rank; returns each one's result or exception."""

    def play(world):
        try:
            return body(world)
        except (Exception, KeyboardInterrupt) as error:
            return error

    peers = Peers(size)
    with ThreadPoolExecutor(size) as pool:
        ranks = [pool.submit(play, PlayedWorld(peers, rank)) for rank in range(size)]
        return [rank.result(LIMIT) for rank in ranks]


def train_until(saver, condition):
    """Takes steps until the condition holds, on all ranks alike; returns their number."""
    for step in range(1, 10_000):
        if saver.sum([condition()])[0]:
            return step
        time.sleep(0.001)
    raise AssertionError("never came true")


def test_steps_are_taken_while_the_disk_is_slow():
    finish_writing, log = threading.Event(), []

    def body(world):
        with open_saver(world) as saver:
            saver.begin(
                lambda: log.append(("written", finish_writing.wait(LIMIT))),
                lambda: log.append(("published", True)),
            )
            for _ in range(50):
                assert saver.sum([1, 2]) == [1, 2]
            assert saver.state is State.WRITING
            assert log == []
            finish_writing.set()
            train_until(saver, lambda: saver.state is State.IDLE)
            assert saver.waited_s == 0

    assert on_ranks(1, body) == [None]
    assert log == [("written", True), ("published", True)]


@given(
    st.integers(1, 4),
    st.lists(st.integers(0, 6), min_size=2, max_size=6),
    st.integers(0, 10**6),
)
@settings(max_examples=25, deadline=None)
def test_publication_falls_between_the_last_commit_and_the_next_first(size, steps, seed):
    """At random speeds of the disks, with random numbers of steps between checkpoints."""
    log, lock = [], threading.Lock()

    def note(*entry):
        with lock:
            log.append(entry)

    def write(generation, pause):
        note("begins", generation)
        time.sleep(pause)
        note("has written", generation)

    def publish(generation, pause):
        time.sleep(pause)
        note("published", generation)

    def body(world):
        rng = random.Random(f"{seed} {world.rank}")
        with open_saver(world) as saver:
            for generation, count in enumerate(steps):
                saver.finish()
                first, then = (
                    partial(action, generation, rng.random() * 0.004) for action in (write, publish)
                )
                saver.begin(first, then if world.is_first else None)
                for _ in range(count):
                    saver.sum([0])

    assert on_ranks(size, body) == [None] * size
    expected = []
    for generation in range(len(steps)):
        assert log.count(("has written", generation)) == size
        assert log.count(("published", generation)) == 1
        at = log.index(("published", generation))
        # Everything of this generation lies before, everything of later ones after.
        assert all(g <= generation for _, g in log[:at])
        assert all(g > generation for _, g in log[at + 1 :])
        expected.append(generation)
    assert [g for what, g in log if what == "published"] == expected


def full_disk():
    raise OSError(errno.ENOSPC, "No space left on device", "data.mdb")


def refused_by_the_store():
    raise UserError("the maps could not be saved, the last checkpoint stays as it was: full")


@pytest.mark.parametrize("fail", [full_disk, refused_by_the_store])
@pytest.mark.parametrize("by_finish", [False, True])
def test_a_failed_write_stops_all_ranks_at_one_step_unpublished(fail, by_finish):
    published, steps, states = [], [], []

    def body(world):
        with open_saver(world) as saver:
            write = fail if world.rank == 1 else lambda: None
            saver.begin(write, lambda: published.append(1) if world.is_first else None)
            try:
                if by_finish:
                    saver.finish()
                for step in range(10_000):
                    steps.append(step)
                    saver.sum([0])
            finally:
                states.append(saver.state)

    errors = on_ranks(3, body)
    assert {type(error) for error in errors} == {UserError}
    assert len({str(error) for error in errors}) == 1
    assert "\n" not in str(errors[0])
    assert "the last checkpoint stays" in str(errors[0])
    assert len(steps) == 3 * (max(steps, default=-1) + 1)  # each as many as the others
    assert published == []
    assert states == [State.IDLE] * 3


def test_a_failed_publication_stops_all_ranks():
    def body(world):
        with open_saver(world) as saver:
            saver.begin(lambda: None, full_disk if world.is_first else None)
            train_until(saver, lambda: False)

    errors = on_ranks(2, body)
    assert {type(error) for error in errors} == {UserError}
    (said,) = {str(error) for error in errors}
    assert said.startswith(
        "a checkpoint could not be written, the last checkpoint stays in force: data.mdb: "
        "No space left on device ("
    )
    assert " bytes free in " in said


def broken_code():
    return {}["absent"]


def test_an_unexpected_error_keeps_its_traceback_where_it_occurs():
    def body(world):
        with open_saver(world) as saver:
            saver.begin(broken_code if world.rank == 1 else lambda: None, None)
            train_until(saver, lambda: False)

    first, second, third = on_ranks(3, body)
    assert isinstance(second, KeyError)
    assert "broken_code" in "".join(traceback.format_exception(second))
    assert isinstance(first, RunError)
    assert str(first) == str(third)
    assert "rank 1 failed while it wrote a checkpoint" in str(first)


def test_one_checkpoint_at_a_time():
    may_go_on = threading.Event()

    def body(world):
        with open_saver(world) as saver:
            saver.begin(lambda: may_go_on.wait(LIMIT), None)
            try:
                saver.begin(lambda: None, None)
            finally:
                may_go_on.set()

    (error,) = on_ranks(1, body)
    assert isinstance(error, AssertionError)
    assert "on its way: each rank writes its maps" in str(error)


def test_the_wait_for_a_slow_disk_is_measured():
    def body(world):
        with open_saver(world) as saver:
            saver.finish()
            assert world.sums == 0  # nothing to wait for: nothing to talk about
            saver.begin(lambda: time.sleep(0.05), None)
            saver.finish()
            return saver.waited_s

    (waited,) = on_ranks(1, body)
    assert 0.05 <= waited < 5


@pytest.mark.parametrize("error", [UserError("a mistake"), RunError("not finite")])
def test_an_error_of_all_ranks_lets_the_checkpoint_finish(error):
    published = []

    def body(world):
        with open_saver(world) as saver:
            saver.begin(
                lambda: time.sleep(0.01 * world.rank),
                (lambda: published.append(1)) if world.is_first else None,
            )
            raise error

    assert on_ranks(3, body) == [error] * 3
    assert published == [1]


def test_the_first_error_is_the_one_to_show():
    mistake = UserError("a mistake")

    def body(world):
        with open_saver(world) as saver:
            saver.begin(full_disk if world.rank == 1 else lambda: None, None)
            raise mistake

    assert on_ranks(2, body) == [mistake] * 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("gloo: a peer has gone")])
def test_alone_a_rank_ends_its_own_write_and_no_more(error):
    """No collective is called, the write is over when the block is, nothing is published."""
    began, log = threading.Event(), []

    def write():
        began.set()
        time.sleep(0.05)
        log.append("written")

    def body(world):
        with open_saver(world) as saver:
            saver.begin(write, lambda: log.append("published"))
            assert began.wait(LIMIT)
            raise error

    world = PlayedWorld(Peers(2), 0)
    with pytest.raises(type(error)):
        body(world)
    assert log == ["written"]
    assert world.sums == 0
    assert not any(thread.name.startswith("oaa-checkpoint") for thread in threading.enumerate())


def test_the_thread_has_a_name_and_is_no_daemon():
    found = []
    saver = Saver(PlayedWorld(Peers(1), 0))
    saver.begin(lambda: found.append(threading.current_thread()), None)
    saver.finish()
    saver.close()
    assert found[0].name.startswith("oaa-checkpoint")
    assert not found[0].daemon
