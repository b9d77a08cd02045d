"""Processes of one thread each that work through tasks, for code that holds Python's lock.

concurrent.futures runs them. What is added here: results come in the order of the tasks while
only a few tasks are read ahead, a stop signal is noticed between two results, and no process
outlives this one, however it ends.
"""

import concurrent.futures
import contextlib
import functools
import importlib
import itertools
import multiprocessing
import multiprocessing.context
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from dist_oaa.config.errors import Interrupted, RunError
from dist_oaa.runtime.signals import StopFlag, die_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
LOOK_S = 0.1
"""Longest time until a signal is noticed, in seconds."""


class WorkerPool:
    """Processes that share tasks; a context manager, left without waiting after an error.

    Args:
        processes: how many, at least 1; each starts with a task that no idle one could take.
        make: called with `args` in each process at its first task; what it returns is handed to
            every function that runs there. All must be importable by name.
    """

    def __init__(self, processes: int, make: Callable[..., Any], *args: Any) -> None:
        assert processes >= 1, processes
        self.processes = processes
        self._context = _RecordingContext()
        self._executor = concurrent.futures.ProcessPoolExecutor(
            processes,
            mp_context=self._context,
            initializer=_begin,
            initargs=(os.getpid(), make, args),
        )

    def map(
        self,
        function: Callable[[Any, Task], Result],
        tasks: Iterable[Task],
        stop: StopFlag | None = None,
    ) -> Iterator[Result]:
        """Yields function(what `make` made, task) of each task, in their order.

        Raises:
            whatever the function raises, at the turn of its task.
            RunError: when a process has died.
            Interrupted: when a signal has come.
        """
        stop = stop or StopFlag()
        tasks = iter(tasks)
        # Enough that no process waits while this one writes down a result.
        ahead = 2 * self.processes + 2
        waiting: deque[concurrent.futures.Future] = deque()
        try:
            while True:
                for task in itertools.islice(tasks, ahead - len(waiting)):
                    with _environment(ONE_THREAD):
                        waiting.append(self._executor.submit(_run, function, task))
                if not waiting:
                    return
                yield _result(waiting[0], stop)
                waiting.popleft()
        except BrokenProcessPool as error:
            # A signal to the whole group may meet a process that has not begun to ignore it.
            _check(stop)
            raise RunError(
                "a worker process died (killed, perhaps for want of memory); its last lines above "
                "tell more, and fewer --processes need less memory"
            ) from error

    def close(self) -> None:
        """Ends the processes when their tasks are done."""
        self._executor.shutdown(wait=True)

    def kill(self) -> None:
        """Ends the processes at once, whatever they do."""
        for process in self._context.started:
            process.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error nobody wants the tasks under way, which may take minutes each.
        if kind is None:
            self.close()
        else:
            self.kill()


class _RecordingContext(multiprocessing.context.SpawnContext):
    """Starts processes anew (a fork would inherit open stores and threads) and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[multiprocessing.Process] = []

    def Process(self, *args: Any, **kwargs: Any) -> multiprocessing.Process:
        process = multiprocessing.context.SpawnProcess(*args, **kwargs)
        self.started.append(process)
        return process


def _result(future: concurrent.futures.Future, stop: StopFlag) -> Any:
    while True:
        _check(stop)
        with contextlib.suppress(concurrent.futures.TimeoutError):
            return future.result(timeout=LOOK_S)
        # A task may have raised a TimeoutError of its own.
        if future.done():
            return future.result()


def _check(stop: StopFlag) -> None:
    if stop.reason:
        raise Interrupted(f"stopped by {stop.reason}")


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment for the processes that start inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# What follows runs in the processes.

_make: Callable[[], Any] | None = None
_made: Any = None


def _begin(parent: int, make: Callable[..., Any], args: tuple) -> None:
    global _make
    die_with_parent()
    if os.getppid() != parent:  # it died while this process was starting
        os._exit(1)
    # A signal goes to the whole process group; the parent decides what becomes of the tasks.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    _one_thread()
    _make = functools.partial(make, *args)


def _run(function: Callable[[Any, Task], Result], task: Task) -> Result:
    global _make, _made
    if _make is not None:
        # Here and not in _begin, so that its error arrives like that of any task.
        made, _make = _make(), None
        _made = made
        _one_thread()
    return function(_made, task)


def _one_thread() -> None:
    """OpenCV and PyTorch count cores by themselves, where they are imported at all."""
    for name, setter in (("cv2", "setNumThreads"), ("torch", "set_num_threads")):
        if name in sys.modules:
            getattr(importlib.import_module(name), setter)(1)
