"""Clears up after a driver that was killed: a small process that outlives it by a moment.

Every process of a local sweep, Ray's own as well as those of its trials, inherits a variable that
names the sweep's temporary folder. When the driver is gone, however that came, what still carries
it is killed and the folder removed. Only the standard library is used here: the file runs by itself
and stays small beside the trials.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = "OAA_SWEEP_FOLDER"
PATIENCE_S = 1.0
"""How long Ray and the kernel may clear up by themselves."""


@contextmanager
def watched(folder: str) -> Iterator[None]:
    """Marks all processes started in the block, and has them end with this one (Linux).

    Args:
        folder: temporary folder of the sweep, which is removed at the end.
    """
    os.environ[MARK] = folder
    command = [sys.executable, "-S", "-E", __file__, folder, str(os.getpid())]
    # Only this process holds the other end of its input: that closes when we are gone.
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        del os.environ[MARK]
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def carrying(folder: str, spared: int) -> list[int]:
    """Process ids of all others that carry the mark or have a file of the folder open (Linux; none
    elsewhere).

    Some of Ray's processes write their title over their environment; their logs tell.
    """
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        with contextlib.suppress(OSError):
            if pid not in (os.getpid(), spared) and (is_marked(path, folder) or uses(path, folder)):
                found.append(pid)
    return found


def is_marked(process: Path, folder: str) -> bool:
    """Whether a process inherited the mark."""
    return f"{MARK}={folder}".encode() in (process / "environ").read_bytes().split(b"\0")


def uses(process: Path, folder: str) -> bool:
    """Whether a process has a file below the folder open."""
    return any(os.readlink(fd).startswith(f"{folder}/") for fd in (process / "fd").iterdir())


def clear_up(folder: str, driver: int) -> None:
    """Ends what is left and removes the folder.

    Args:
        driver: process id of whoever started all this, which may go on.
    """
    deadline = time.monotonic() + PATIENCE_S
    while carrying(folder, driver) and time.monotonic() < deadline:
        time.sleep(0.1)
    for _ in range(20):  # a process may have started another one meanwhile
        left = carrying(folder, driver)
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            break
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    clear_up(sys.argv[1], int(sys.argv[2]))
