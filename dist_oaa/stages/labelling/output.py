"""A run directory whose folder of PNGs is there whole or not at all, and whose summary is last.

RUN/.NAME.tmp          the files while they are made; a killed attempt's are replaced
RUN/.NAME.json.ready   the summary, when everything else is done: from here on RUN/NAME is ours
RUN/NAME/              the files
RUN/NAME.json          the summary: says that the folder is complete
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dist_oaa.config.errors import Interrupted, RunError, UserError
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.files import sync_folder, write_atomic

EARLIER = ("attention", "store", "checkpoints")
"""What other stages leave in their run directories."""


class OutputFolder:
    """The folder that a stage makes.

    Args:
        run_dir: the stage's run directory.
        name: of the folder in it, and of its summary.
    """

    def __init__(self, run_dir: Path, name: str) -> None:
        self.final = run_dir.resolve() / name
        self.working = self.final.with_name(f".{name}.tmp")
        self._summary = self.final.with_name(f"{name}.json")
        self._ready = self.final.with_name(f".{name}.json.ready")

    def check_new(self) -> None:
        """Refuses to overwrite anything that is finished; changes nothing.

        Raises:
            UserError: when the run directory is another stage's, or holds finished files.
        """
        run_dir, name = self.final.parent, self.final.name
        for other in EARLIER:
            if (run_dir / other).exists():
                raise UserError(
                    f"run_dir {run_dir} holds another run ({other}/), expected a folder of its own "
                    f"for {name}/"
                )
        half_renamed = self._ready.exists() and not self._summary.exists()
        if self._summary.exists() or (self.final.exists() and not half_renamed):
            raise UserError(
                f"{self.final} exists, and finished files are never overwritten: choose another "
                "run_dir or remove this one"
            )

    @contextmanager
    def made(self, world: World) -> Iterator[Path]:
        """The working folder, empty; on a failure of all ranks nothing of it is left.

        Raises:
            UserError: when it cannot be made; what `check_new` raises.
        """
        world.only_first(self._begin)
        try:
            yield self.working
        except (UserError, RunError, Interrupted):
            # Raised by all ranks after the same image: none of them is still writing, for their
            # processes have ended.
            world.barrier()
            if world.is_first:
                shutil.rmtree(self.working, ignore_errors=True)
            raise

    def publish(self, summary: Mapping[str, Any]) -> None:
        """Makes the files appear, then the summary; on rank 0.

        Raises:
            OSError: when the disk is full or not writable.
        """
        text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
        write_atomic(self._ready, text.encode())
        os.replace(self.working, self.final)
        sync_folder(self.final.parent)
        os.replace(self._ready, self._summary)
        sync_folder(self.final.parent)

    def _begin(self) -> None:
        self.check_new()
        if self._ready.exists():
            # An attempt was killed between its last two renames.
            shutil.rmtree(self.final, ignore_errors=True)
            self._ready.unlink()
        shutil.rmtree(self.working, ignore_errors=True)
        self.working.mkdir(parents=True)
