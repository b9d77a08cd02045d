"""The right to write a shard, or a run directory, held by one process at a time.

An advisory lock (flock) on a small file: the kernel drops it when its holder dies, however it
dies, so a lease never has to be broken by hand.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.files import disk_words


class Lease:
    """Holds a lock FOLDER/leases/NAME.lock from construction until `release`.

    Raises:
        UserError: when another process holds it (named), or the file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {disk_words(error, path)}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._file, 4096)
            os.close(self._file)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(
                    f"{path.parent.parent} is being written by another run ({_describe(holder)}); "
                    "stop that run or choose another run_dir"
                ) from error
            raise UserError(
                f"{path}: this file system has no file locks ({error.strerror}); "
                "put run_dir on one that has"
            ) from error
        note = {"host": socket.gethostname(), "pid": os.getpid()}
        # The note only serves the sentence above; a full disk shows when maps are written.
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(note).encode(), 0)

    def release(self) -> None:
        """Gives the right back."""
        os.close(self._file)


def _describe(holder: bytes) -> str:
    try:
        note = json.loads(holder)
        return f"process {note['pid']} on {note['host']}"
    except (ValueError, KeyError, TypeError):
        return "its process is unknown"


def is_held(path: Path) -> bool:
    """Whether some process holds the lease at this path."""
    if not path.exists():
        return False
    file = os.open(path, os.O_RDONLY)
    try:
        # Shared, so that two who look at once do not take each other for a writer.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        # Where there are no locks, nobody can hold one.
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(file)
    return False


def held_leases(run_dir: Path) -> list[Path]:
    """The leases of a run directory and of its stores that some process holds."""
    locks = [*run_dir.glob("leases/*.lock"), *run_dir.glob("store*/leases/*.lock")]
    return [path for path in sorted(locks) if is_held(path)]
