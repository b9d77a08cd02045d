"""The processes that load images: noticed when they die, ended when they hang.

torch's DataLoader starts them. What it lacks is said here: which of them died and of what, without
an exception in the middle of a training step; which of them is awaited; and an end also for those
that never answer.
"""

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from multiprocessing import connection
from multiprocessing.util import get_temp_dir
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils.signal_handling import _error_if_any_worker_fails

from dist_oaa.config.errors import RunError
from dist_oaa.runtime.signals import die_with_parent

DYING_S = 1.0
"""How long a worker whose pipe has closed may take to end, in seconds."""
GRACE_S = 3.0
"""How long a worker may take to end by itself, in seconds."""
WHY = {
    signal.SIGKILL: "perhaps out of memory; lower data.workers",
    signal.SIGBUS: "perhaps for want of shared memory; enlarge /dev/shm or lower data.workers",
}
LONGEST_SOCKET = 107
"""Bytes of a socket's path that Linux takes."""
SOCKET = "/pymp-12345678/listener-12345678"
"""How multiprocessing calls one in the folder for temporary files."""


class Workers:
    """The worker processes of one loader; none before it has been iterated over."""

    def __init__(self) -> None:
        self._iterator: Any = None

    @property
    def processes(self) -> list:
        """multiprocessing.Process each, in the order of their numbers."""
        return [] if self._iterator is None else self._iterator._workers

    def started(self, loader: DataLoader) -> Iterator:
        """An iterator of torch's DataLoader, whose processes are ours from now on."""
        if loader.num_workers:
            # Workers keep sockets in a temporary folder. Where we have made one they use it, and
            # it is removed by us; a worker that is killed would leave its own.
            make_socket_folder()
        iterator = iter(loader)
        if hasattr(iterator, "_workers"):
            self._iterator = iterator
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, _child_ended)
        return iterator

    @contextlib.contextmanager
    def alive(self, rank_name: str) -> Iterator[None]:
        """A block that waits for workers; one that dies ends it at once.

        Args:
            rank_name: `rank 2 (node7)`, for the sentence.

        Raises:
            RunError: when a worker is dead, also from before.
        """
        self._check(rank_name)
        _AWAITED.append(self)
        try:
            yield
        except (RuntimeError, OSError, EOFError):
            # A dying worker's pipes close (OSError, EOFError) a moment before it has ended; its
            # sentinel is one of them.
            dying = {process.sentinel: process for process in self.processes}
            for sentinel in connection.wait(dying, DYING_S):
                dying[sentinel].join(DYING_S)
            self._check(rank_name)
            raise
        finally:
            _AWAITED.pop()

    def _check(self, rank_name: str) -> None:
        for number, process in enumerate(self.processes):
            if process.exitcode is not None:
                raise RunError(
                    f"{rank_name}: data worker {number} (pid {process.pid}) "
                    f"{how_it_ended(process.exitcode)}; continue with --resume"
                )

    def awaited(self) -> str:
        """`data worker 1 (pid 77) has not answered`; empty without workers. For any thread."""
        iterator = self._iterator
        if iterator is None:
            return ""
        task = iterator._task_info.get(iterator._rcvd_idx)
        # At the beginning of an epoch each worker has to confirm it.
        asked = range(len(iterator._workers)) if task is None else task[:1]
        names = ", ".join(f"{n} (pid {iterator._workers[n].pid})" for n in asked)
        if len(asked) == 1:
            return f"data worker {names} has not answered"
        return f"not all data workers have answered: {names}"

    def end(self) -> None:
        """Ends the processes; those that hang, or are left beside a dead one, are killed."""
        if self._iterator is None:
            return
        processes = self.processes
        died = any(process.exitcode is not None for process in processes)
        # Started first: torch would wait for a worker that hangs, and send it a SIGTERM that it
        # ignores.
        killer = threading.Timer(0 if died else GRACE_S, _kill, [processes])
        killer.start()
        try:
            self._iterator._shutdown_workers()
        finally:
            killer.cancel()
            killer.join()
            _kill(processes)
            self._iterator = None


_AWAITED: list[Workers] = []
"""Not empty while the main thread waits for workers."""


def _child_ended(_number: int, _frame: object) -> None:
    # torch's own handler raises wherever the main thread happens to be: in the middle of a step,
    # while the other ranks wait in a collective. A death is reported where images are awaited.
    if _AWAITED:
        _error_if_any_worker_fails()


def _kill(processes: list) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()


def how_it_ended(exit_code: int) -> str:
    """`was killed by signal 9 (SIGKILL), perhaps out of memory; lower data.workers`."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}, its output says why"
    try:
        killer = signal.Signals(-exit_code)
    except ValueError:  # a real-time signal
        return f"was killed by signal {-exit_code}"
    why = f", {WHY[killer]}" if killer in WHY else ""
    return f"was killed by signal {killer.value} ({killer.name}){why}"


def make_socket_folder() -> None:
    """The folder for the sockets of this process's workers, where a socket's path is not too long.

    Below a long $TMPDIR no worker could hand over a batch: it would print an error and hang.
    """
    if len(os.fsencode(tempfile.gettempdir())) + len(SOCKET) <= LONGEST_SOCKET:
        get_temp_dir()
        return
    usual, tempfile.tempdir = tempfile.tempdir, "/tmp"
    try:
        get_temp_dir()
    finally:
        tempfile.tempdir = usual


def start_worker(_: int) -> None:
    """What a worker does first."""
    # A signal goes to the whole process group; workers must outlive it, or the training process
    # loses its batch in the middle of the emergency checkpoint.
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)
    # But not the training process, whatever they hang on.
    die_with_parent()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
