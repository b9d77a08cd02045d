"""checkpoints/latest.json: the one small file whose rename publishes a checkpoint with its maps.

    {"name": "step-00000120-g000007", "generation": 7, "crc32": "0f3a99c1"}

Its checksum is there since the generation alone decides which maps are read: a flipped bit would
bring up older ones.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.files import write_atomic

LATEST = "latest.json"
# Beside it: a file that says so, from the beginning of a run to its first checkpoint.
UNPUBLISHED = "nothing-published-yet"


@dataclass(frozen=True)
class Latest:
    """What is published."""

    name: str
    """Folder of the checkpoint."""
    generation: int
    """Generation of the store that belongs to it, 0 where a stage has no store."""

    @property
    def crc32(self) -> str:
        """The checksum of both."""
        return f"{zlib.crc32(f'{self.name} {self.generation}'.encode()):08x}"

    def write(self, folder: Path) -> None:
        """Publishes it in a `checkpoints` folder.

        Raises:
            OSError: when the disk is full or fails; the old one stays in force.
        """
        entry = {"name": self.name, "generation": self.generation, "crc32": self.crc32}
        write_atomic(folder / LATEST, json.dumps(entry).encode())

    @classmethod
    def read(cls, folder: Path) -> "Latest":
        """What a `checkpoints` folder says is published.

        Raises:
            FileNotFoundError: when nothing is.
            UserError: when the file is damaged.
        """
        path = folder / LATEST
        try:
            entry = json.loads(path.read_bytes())
            latest = cls(str(entry["name"]), int(entry["generation"]))
            if entry["crc32"] != latest.crc32:
                raise ValueError("its checksum does not match")
            return latest
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path} is damaged: {error!r}") from error
