"""Data workers that die, hang or wait: what is said of them, and that they end."""

import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_trees import write_image
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import RunError
from dist_oaa.data.loader import BatchLoader
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.data.workers import Workers, how_it_ended, make_socket_folder


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-9, "was killed by signal 9 (SIGKILL), perhaps out of memory; lower data.workers"),
        (-7, "was killed by signal 7 (SIGBUS), perhaps for want of shared memory; enlarge /dev/shm "
             "or lower data.workers"),
        (-11, "was killed by signal 11 (SIGSEGV)"),
        (-40, "was killed by signal 40"),
        (3, "ended with exit code 3, its output says why"),
        (0, "ended with exit code 0, its output says why"),
    ],
)  # fmt: skip
def test_how_a_worker_ended(code, said):
    assert how_it_ended(code) == said


class Played:
    """A process; its sentinel is a pipe that closes a moment before it ends, as a real one's."""

    def __init__(self, pid, exitcode):
        self.pid, self.exitcode = pid, exitcode
        self.sentinel, self._alive = multiprocessing.Pipe(duplex=False)
        self._ended = threading.Event()

    def end_soon(self, code):
        def end():
            self._alive.close()
            time.sleep(0.1)
            self.exitcode = code
            self._ended.set()

        threading.Timer(0.1, end).start()

    def join(self, timeout):
        self._ended.wait(timeout)


def workers_of(*exit_codes, tasks=None, awaited=0) -> Workers:
    """Workers whose processes are played."""
    workers = Workers()
    processes = [Played(70 + n, code) for n, code in enumerate(exit_codes)]
    workers._iterator = SimpleNamespace(
        _workers=processes, _task_info=tasks or {}, _rcvd_idx=awaited
    )
    return workers


def test_a_dead_worker_is_named_before_anything_is_awaited():
    reached = False
    with (
        pytest.raises(RunError, match=r"^rank 2 \(a\): data worker 1 \(pid 71\) was killed by sig"),
        workers_of(None, -9).alive("rank 2 (a)"),
    ):
        reached = True
    assert not reached


def test_one_that_dies_meanwhile_is_named_in_place_of_what_torch_says():
    workers = workers_of(None, None)

    def next_batch():
        workers.processes[0].exitcode = -11
        raise RuntimeError("DataLoader worker (pid 70) is killed by signal")

    with pytest.raises(RunError, match="data worker 0"), workers.alive("rank 0 (a)"):
        next_batch()


def test_a_pipe_that_closes_before_its_worker_has_ended():
    workers = workers_of(None, None)

    def next_batch():
        workers.processes[1].end_soon(-9)
        raise ConnectionResetError("Connection reset by peer")

    with pytest.raises(RunError, match=r"data worker 1 .*signal 9"), workers.alive("rank 0 (a)"):
        next_batch()


def test_another_error_stays_what_it_is():
    with pytest.raises(RuntimeError, match="in the images"), workers_of(None).alive("rank 0 (a)"):
        raise RuntimeError("in the images")


def test_the_awaited_worker_is_named():
    tasks = {4: (1,), 5: (0,), 6: (1, "its data are there")}
    named = "data worker 1 (pid 71) has not answered"
    assert workers_of(None, None, tasks=tasks, awaited=4).awaited() == named
    assert workers_of(None, None).awaited() == (
        "not all data workers have answered: 0 (pid 70), 1 (pid 71)"
    )
    assert workers_of(None).awaited() == "data worker 0 (pid 70) has not answered"
    assert Workers().awaited() == ""


def open_loader(root: Path, workers: int) -> BatchLoader:
    samples = [
        Sample(f"{n}", write_image(root / f"{n}.png", 40, 40, seed=n), (0,), None) for n in range(4)
    ]
    image_set = ImageSet(root, ("a",), tuple(samples), "labels.csv")
    return BatchLoader(image_set, DataConfig(size=32, workers=workers), 8, seed=0)


@pytest.mark.slow
def test_a_death_is_told_of_where_images_are_awaited_and_nowhere_else(tmp_path):
    """A step that is under way goes on: the other ranks wait for it in a collective."""
    loader = open_loader(tmp_path, 1)
    batches = loader.load([np.array([n % 4]) for n in range(50)], 0)
    next(batches)
    (process,) = loader._workers.processes
    os.kill(process.pid, signal.SIGKILL)
    deadline, steps = time.monotonic() + 1, 0
    while time.monotonic() < deadline:  # SIGCHLD arrives in here
        steps += 1
    assert steps > 0
    with pytest.raises(RunError, match=rf"data worker 0 \(pid {process.pid}\) was killed by sign"):
        next(batches)
    loader.close()


@pytest.mark.slow
def test_a_worker_that_hangs_is_named_and_ended(tmp_path):
    loader = open_loader(tmp_path, 1)
    assert len(list(loader.load([np.array([0])], 0))) == 1
    (process,) = loader._workers.processes
    os.kill(process.pid, signal.SIGSTOP)
    start = time.monotonic()
    loader.close()
    assert time.monotonic() - start < 20
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("length", [20, 75, 76, 200])
def test_a_socket_fits_below_any_temporary_folder(length, monkeypatch):
    long = Path("/tmp") / ("oaa-" + "x" * length)[: length - len("/tmp/")]
    long.mkdir(exist_ok=True)
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(long))
        monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)
        make_socket_folder()
        folder = multiprocessing.current_process()._config["tempdir"]
        assert Path(folder).is_dir()
        assert Path(folder).parent == (long if length <= 75 else Path("/tmp"))
        assert tempfile.gettempdir() == str(long)
        with multiprocessing.connection.Listener(f"{folder}/listener-12345678"):
            pass
        Path(folder).rmdir()
    finally:
        shutil.rmtree(long)
