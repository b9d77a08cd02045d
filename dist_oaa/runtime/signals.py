"""Signals that ask for a stop: noticed at once, acted on between two steps.

SIGTERM (torchrun, schedulers), SIGUSR1 (Slurm's warning before preemption) and SIGINT (Ctrl-C)
set a flag; the training loop lets all ranks agree on it, writes a checkpoint and exits with 75.
A second Ctrl-C stops at once. torchrun passes SIGUSR1 on only with `--signals-to-handle`.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class StopFlag:
    """Holds the name of the signal that asked for a stop, or an empty string."""

    def __init__(self) -> None:
        self.reason = ""

    def _handle(self, number: int, _frame: object) -> None:
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Installs the handlers for the length of a block, and puts the old ones back."""
    flag = StopFlag()
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    previous = {number: signal.signal(number, flag._handle) for number in numbers}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Has the kernel kill this process when its launcher dies, however that dies (Linux only).

    torchrun's workers would otherwise train on as orphans after a SIGKILL of torchrun, and hold
    the store's leases against the run that is started to replace them.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It died before the request was made.
        os.kill(os.getpid(), signal.SIGKILL)
