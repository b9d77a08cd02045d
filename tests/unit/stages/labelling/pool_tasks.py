"""What the pool's tests run in its processes, which import this module by its name."""

import os
import signal
import sys
import time

import cv2

from dist_oaa.config.errors import UserError


def make(value: str) -> str:
    return value


def fail_to_make(sentence: str) -> None:
    raise UserError(sentence)


def describe(made: str, task: int) -> tuple:
    """Who ran the task, and with how many threads."""
    threads = (os.environ["OMP_NUM_THREADS"], cv2.getNumThreads())
    return made, task, os.getpid(), threads


def slower_at_first(made: str, task: int) -> int:
    time.sleep(0.2 if task == 0 else 0)
    return task


def refuse_three(made: str, task: int) -> int:
    if task == 3:
        raise UserError("three is no good")
    return task


def time_out(made: str, task: int) -> int:
    raise TimeoutError("of the task's own")


def die_at_two(made: str, task: int) -> int:
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def sleep_long(made: str, task: int) -> int:
    time.sleep(600)
    return task


def sleep_a_little(made: str, task: int) -> int:
    time.sleep(0.25)
    return task


def signal_myself(made: str, task: int) -> int:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    return task


if __name__ == "__main__":
    # A program that waits for its pool for ever, for the tests to kill.
    from dist_oaa.stages.labelling.pool import WorkerPool

    with WorkerPool(2, make, "x") as pool:
        print("started", sys.argv[0], flush=True)
        list(pool.map(sleep_long, range(4)))
