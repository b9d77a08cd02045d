"""The pool of processes: order, errors, signals, and that nothing outlives it."""

import multiprocessing
import os
import signal
import sys
import time

import pytest

import pool_tasks
from dist_oaa.config.errors import Interrupted, RunError, UserError
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.labelling.pool import WorkerPool
from processes import Running, children, descendants, wait_until_gone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_results_come_in_order_from_processes_of_one_thread():
    before = os.environ.get("OMP_NUM_THREADS")
    taken = []

    def tasks():
        for number in range(20):
            taken.append(number)
            yield number

    with WorkerPool(2, pool_tasks.make, "made") as pool:
        results = pool.map(pool_tasks.describe, tasks())
        first = next(results)
        # No more than a few are read ahead: they may be large.
        assert len(taken) <= 7
        found = [first, *results]
        again = list(pool.map(pool_tasks.slower_at_first, range(5)))
    assert [(made, task) for made, task, *_ in found] == [("made", n) for n in range(20)]
    assert os.getpid() not in {pid for *_, pid, _ in found}
    assert {threads for *_, threads in found} == {("1", 1)}
    assert again == list(range(5))
    assert os.environ.get("OMP_NUM_THREADS") == before
    assert not multiprocessing.active_children()


def test_two_processes_work_at_the_same_time():
    """Tasks that only wait: what else the machine does hardly matters."""
    seconds = {}
    for processes in (1, 2):
        with WorkerPool(processes, pool_tasks.make, "x") as pool:
            list(pool.map(pool_tasks.slower_at_first, range(4)))  # both have started
            begun = time.monotonic()
            list(pool.map(pool_tasks.sleep_a_little, range(12)))
            seconds[processes] = time.monotonic() - begun
    assert seconds[1] > 3
    assert seconds[1] / seconds[2] > 1.5


def work(function, tasks, processes: int = 2, make=pool_tasks.make, value: str = "x") -> list:
    with WorkerPool(processes, make, value) as pool:
        return list(pool.map(function, tasks))


def test_an_error_comes_at_its_turn_as_it_was_raised():
    seen = []

    def take_all() -> None:
        with WorkerPool(2, pool_tasks.make, "x") as pool:
            for result in pool.map(pool_tasks.refuse_three, range(9)):
                seen.append(result)

    with pytest.raises(UserError, match=r"^three is no good$"):
        take_all()
    assert seen == [0, 1, 2]
    with pytest.raises(TimeoutError, match="of the task's own"):
        work(pool_tasks.time_out, range(2), 1)
    with pytest.raises(UserError, match=r"^no weights$"):
        work(pool_tasks.describe, range(3), make=pool_tasks.fail_to_make, value="no weights")
    assert not multiprocessing.active_children()


def test_a_process_that_dies_ends_the_work_with_one_sentence():
    with pytest.raises(RunError, match=r"a worker process died .* fewer --processes"):
        work(pool_tasks.die_at_two, range(30))
    assert not multiprocessing.active_children()


def test_a_signal_is_noticed_while_tasks_take_long():
    stop = StopFlag()

    def wait_for_ever() -> None:
        with WorkerPool(2, pool_tasks.make, "x") as pool:
            # The processes themselves ignore signals, which a terminal sends to all of them.
            assert list(pool.map(pool_tasks.signal_myself, range(3))) == [0, 1, 2]
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            list(pool.map(pool_tasks.sleep_long, range(3), stop))

    before = signal.signal(signal.SIGALRM, stop._handle)
    begun = time.monotonic()
    try:
        with pytest.raises(Interrupted, match=r"^stopped by SIGALRM$"):
            wait_for_ever()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begun < 60, "nobody waits for the tasks under way"
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl, which is Linux's")
def test_processes_end_with_their_parent_even_when_it_is_killed(tmp_path):
    started = Running([sys.executable, pool_tasks.__file__], tmp_path / "log")
    try:
        # The workers, and multiprocessing's resource tracker.
        started.wait_until(lambda: len(children(started.process.pid)) >= 3, 100)
        family = descendants(started.process.pid)
        os.kill(started.process.pid, signal.SIGKILL)
        wait_until_gone(family, 30)
    finally:
        if started.process.poll() is None:
            started.kill()
