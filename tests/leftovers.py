"""What a run may leave behind outside its run directory: nothing."""

import contextlib
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
SHM = f" {SHARED_MEMORY}/"


def shared_by(pids: Iterable[int]) -> set[str]:
    """Names of the shared-memory files and semaphores that processes use."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
            found |= {line.split(f"{SHARED_MEMORY}/")[1] for line in lines if SHM in line}
    return {name for name in found if not name.endswith(" (deleted)")}


def still_there(names: set[str], seconds: float = 5.0) -> set[str]:
    """Which of these files exist, also after a moment."""
    deadline = time.monotonic() + seconds
    while True:
        left = {name for name in names if (SHARED_MEMORY / name).exists()}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def left_in(temporary: Path) -> list[str]:
    """What lies in a folder that a run had for its temporary files.

    torch makes its compiler's cache there, for all later processes of the user, and torchrun a
    folder for logs, which it leaves when a rank fails.
    """
    names = {path.name for path in temporary.iterdir()}
    return sorted(n for n in names if not n.startswith(("torchinductor_", "torchelastic_")))


def open_files() -> dict[str, str]:
    """What this process has open, by file descriptor."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found


def threads() -> list[str]:
    """Names of this process's Python threads."""
    return sorted(thread.name for thread in threading.enumerate())
