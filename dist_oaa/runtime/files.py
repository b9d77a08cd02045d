"""Files that are there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dist_oaa.config.errors import UserError


@contextmanager
def named_disk_errors(what: str) -> Iterator[None]:
    """Turns a full or failing disk into a sentence that says what could not be written.

    Raises:
        UserError: for any OSError of the block.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{what} could not be written, the last checkpoint stays in force: "
            f"{error.strerror or error}"
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
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


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
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
