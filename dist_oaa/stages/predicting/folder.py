"""The folder of `oaa predict`: never one that holds anything, and there whole or not at all."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from dist_oaa.config.errors import Interrupted, RunError, UserError
from dist_oaa.config.predict import PredictConfig
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.files import sync_folder
from dist_oaa.stages.predicting.finish import Failed


class Saved(Protocol):
    """A report that writes its summary."""

    def save(self, folder: Path) -> None:
        """Writes it into a folder."""


def working_folder(out: Path) -> Path:
    """Where the files lie while they are made."""
    # A name without process id: what a killed attempt left behind is replaced.
    return out.with_name(f".{out.name}.tmp")


def check_out(out: Path, config: PredictConfig) -> None:
    """Refuses a folder that holds anything.

    Raises:
        UserError: when it does, or is no folder.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(
            f"out {config.out} exists and holds something, and nothing is ever overwritten: "
            "choose another folder or remove this one"
        )


@contextmanager
def being_made(folder: Path, world: World) -> Iterator[None]:
    """An empty folder for the files while they are made, by all ranks; gone when they fail.

    Raises:
        UserError, RunError, Interrupted: as the block.
    """
    world.only_first(lambda: begin(folder))
    try:
        yield
    except (UserError, RunError, Interrupted):
        # Raised by all ranks after the same image: none of them is still writing.
        world.barrier()
        if world.is_first:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def begin(folder: Path) -> None:
    """Makes the folder, anew where a killed attempt left one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def check_any(results: Sequence[object]) -> None:
    """Refuses to call it a success when no image at all could be read.

    Raises:
        UserError: when none could.
    """
    failed = [result for result in results if isinstance(result, Failed)]
    if len(failed) == len(results):
        count = len(results)
        whole = f"none of the {count} images can be used, first: " if count > 1 else ""
        raise UserError(f"{whole}{failed[0].reason}")


def publish(folder: Path, out: Path, report: Saved) -> None:
    """Writes the summary and makes the folder appear; on rank 0.

    Raises:
        OSError: when the disk is full or not writable.
    """
    report.save(folder)
    os.replace(folder, out)
    sync_folder(out.parent)
