"""Files that are there whole or not at all."""

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.faults import fault_point

# A full disk, a quota, a limit on the size of a file; a disk that fails.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def disk_words(error: Exception, place: Path, needed: int | None = None) -> str:
    """What a disk has refused, in words, with the bytes that were needed and those that are free.

    Args:
        place: what was being written, or the folder of it; it need not exist.
        needed: bytes that were to be written, None where that is not known.
    """
    words = " ".join(str(getattr(error, "strerror", None) or error).split())
    # What LMDB and safetensors raise has no number.
    if getattr(error, "errno", None) not in (None, *DISK_ERRORS):
        return words
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    numbers = [f"{needed:,} bytes to write"] if needed is not None else []
    with suppress(OSError):
        free = free_bytes(place)
        numbers.append(f"{free:,} bytes free in {_existing(place)}")
        if not isinstance(error, OSError) and needed is not None and free < needed:
            # LMDB speaks of an input/output error where the disk still took a part.
            words = os.strerror(errno.ENOSPC)
    if limit != resource.RLIM_INFINITY and (needed is None or needed > limit):
        numbers.append(f"no file may have more than {limit:,} bytes (ulimit -f)")
    return f"{words} ({', '.join(numbers)})" if numbers else words


def free_bytes(place: Path) -> int:
    """Bytes that this user may still write where a file is, or would be.

    Raises:
        OSError: when the file system does not say.
    """
    return shutil.disk_usage(_existing(place)).free


def _existing(place: Path) -> Path:
    return next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())


@contextmanager
def named_disk_errors(what: str | Path, needed: int | None = None) -> Iterator[None]:
    """Turns a full or failing disk into a sentence that says what could not be written.

    Args:
        what: the file or folder.
        needed: bytes that are to be written, None where that is not known.

    Raises:
        UserError: for any OSError of the block.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{what} could not be written, the last checkpoint stays in force: "
            f"{disk_words(error, Path(what), needed)}"
        ) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file so that a crash leaves the old content or the new, never a part.

    Raises:
        OSError: when the disk is full or not writable; the old content stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            fault_point("files.fsync")
            os.fsync(file.fileno())
        fault_point("files.rename")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_leftovers(run_dir: Path) -> None:
    """Removes what a killed process has left in a run directory under temporary names.

    Only for a process that nobody else writes the folder beside; what cannot be removed stays.
    """
    for pattern in (".*.tmp", "*/.*.tmp", "*/*/.*.tmp"):
        for path in run_dir.glob(pattern):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `out` when the block ends without an exception.

    Raises:
        UserError: when `out` holds something, or the disk is full or not writable; `out` stays
            as it was.
    """
    out = out.resolve()
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise UserError(f"{out} exists, expected a new or empty folder")
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, out)
        sync_folder(out.parent)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {disk_words(error, out)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
