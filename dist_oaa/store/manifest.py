"""What a store is about: written once when it is made, checked whenever it is opened."""

import dataclasses
import hashlib
import json
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.files import write_atomic
from dist_oaa.store.ownership import assign_shards

FORMAT = 2
MANIFEST = "manifest.json"
TABLE = "images.tsv"
FIELDS = {
    "store_id",
    "map_size",
    "dtype",
    "fusion",
    "shards",
    "fingerprint",
    "table_sha256",
    "class_names",
}
SOUND = {
    "map_size": lambda value: type(value) is int and 1 <= value <= 1024,
    "dtype": lambda value: value in ("uint8", "float16", "float32"),
    "shards": lambda value: type(value) is int and 1 <= value <= 4096,
    "class_names": lambda value: type(value) is list and all(type(name) is str for name in value),
} | {key: lambda value: type(value) is str for key in ("store_id", "fusion", "fingerprint")}
"""What a value of a manifest may be; the table has a checksum."""


@dataclass(frozen=True)
class Manifest:
    """Identity and layout of a store.

    A pair (image, class) is identified by names. Its number, under which the shard's LMDB keeps
    it, follows from the table: rows of a shard count the target classes of the shard's images in
    the order of the table.
    """

    map_size: int
    dtype: str
    fusion: str
    shards: int
    class_names: tuple[str, ...]
    fingerprint: str
    image_ids: tuple[str, ...]
    classes: tuple[tuple[int, ...], ...]
    store_id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        # In name order, so that a store does not depend on the order of some list file.
        assert list(self.image_ids) == sorted(set(self.image_ids)), "image_ids must be sorted"
        for name in self.image_ids:
            if not is_storable(name):
                raise UserError(
                    f"image name {name!r} cannot be kept in a store, expected a relative name "
                    "without tabs, line breaks or '..'"
                )

    @cached_property
    def shard_N(self) -> np.ndarray:
        """int64: the shard of each image."""
        return assign_shards(self.image_ids, self.shards)

    @cached_property
    def first_row_N(self) -> np.ndarray:
        """int64: number of the image's first pair within its shard."""
        counts_N = np.array([len(c) for c in self.classes], dtype=np.int64)
        first_N = np.zeros(len(counts_N), dtype=np.int64)
        for shard in range(self.shards):
            members = np.flatnonzero(self.shard_N == shard)
            first_N[members] = np.cumsum(counts_N[members]) - counts_N[members]
        return first_N

    @cached_property
    def rows_of_shard(self) -> np.ndarray:
        """int64 (shards,): number of pairs in each shard."""
        counts_N = np.array([len(c) for c in self.classes], dtype=np.int64)
        return np.bincount(self.shard_N, weights=counts_N, minlength=self.shards).astype(np.int64)

    @property
    def pairs(self) -> int:
        """Number of (image, target class) pairs."""
        return sum(len(c) for c in self.classes)

    def pairs_of_shard(self, shard: int) -> list[tuple[str, int]]:
        """(image name, class index) of each row of a shard."""
        members = np.flatnonzero(self.shard_N == shard).tolist()
        return [(self.image_ids[i], c) for i in members for c in self.classes[i]]

    def write(self, folder: Path) -> None:
        """Writes the table and then the manifest, each atomically.

        Raises:
            OSError: when the disk is full or not writable.
        """
        lines = (
            f"{name}\t{' '.join(map(str, classes))}\n"
            for name, classes in zip(self.image_ids, self.classes, strict=True)
        )
        table = "".join(lines).encode()
        write_atomic(folder / TABLE, table)
        fields = {
            "format": FORMAT,
            "store_id": self.store_id,
            "map_size": self.map_size,
            "dtype": self.dtype,
            "fusion": self.fusion,
            "shards": self.shards,
            "images": len(self.image_ids),
            "pairs": self.pairs,
            "fingerprint": self.fingerprint,
            "table_sha256": hashlib.sha256(table).hexdigest(),
            "class_names": list(self.class_names),
        }
        write_atomic(folder / MANIFEST, (json.dumps(fields, indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads the manifest of a store folder.

        Raises:
            UserError: when there is none, or it is damaged or of another format.
        """
        path = folder / MANIFEST
        try:
            fields = json.loads(path.read_bytes())
            table = (folder / TABLE).read_bytes()
        except FileNotFoundError as error:
            raise UserError(f"{folder} is no store: {error.filename} is missing") from error
        except OSError as error:
            raise UserError(f"{folder} cannot be read as a store: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged: {error}") from error
        have = fields.get("format") if isinstance(fields, dict) else None
        if have != FORMAT:
            raise UserError(f"{path}: format is {have}, expected {FORMAT}")
        if not fields.keys() >= FIELDS:
            raise UserError(f"{path} is damaged: it lacks {min(FIELDS - fields.keys())}")
        wrong = [key for key, sound in SOUND.items() if not sound(fields[key])]
        if wrong:
            raise UserError(f"{path} is damaged: {wrong[0]} is {str(fields[wrong[0]])[:80]!r}")
        if hashlib.sha256(table).hexdigest() != fields["table_sha256"]:
            raise UserError(f"{folder / TABLE} does not match the checksum in {MANIFEST}")
        # Not splitlines(), to which some characters of a name are line breaks.
        rows = [line.split("\t") for line in table.decode().split("\n")[:-1]]
        return cls(
            map_size=fields["map_size"],
            dtype=fields["dtype"],
            fusion=fields["fusion"],
            shards=fields["shards"],
            class_names=tuple(fields["class_names"]),
            fingerprint=fields["fingerprint"],
            image_ids=tuple(row[0] for row in rows),
            classes=tuple(tuple(map(int, row[1].split())) for row in rows),
            store_id=fields["store_id"],
        )

    def check(self, expected: "Manifest", folder: Path) -> None:
        """Refuses a store that was made for something else.

        Raises:
            UserError: naming the first difference and the setting behind it.
        """
        settings = {
            "map_size": "accumulate.map_size",
            "dtype": "accumulate.dtype",
            "fusion": "accumulate.fusion",
            "shards": "store.shards",
        }
        for field, key in settings.items():
            have, want = getattr(self, field), getattr(expected, field)
            if have != want:
                raise UserError(
                    f"{folder} was made with {key} {have}, but this run asks for {want}; "
                    "use the same setting or another run_dir"
                )
        if self.class_names != expected.class_names:
            raise UserError(
                f"{folder} was made with other classes: {_difference(self, expected)}; "
                "use the same data set or another run_dir"
            )
        if self.fingerprint != expected.fingerprint:
            raise UserError(
                f"{folder} was made for other images or labels ({len(self.image_ids)} images "
                f"there, {len(expected.image_ids)} here); use the same data set or another run_dir"
            )


def is_storable(name: str) -> bool:
    """Whether a name is a relative path that fits a line of the UTF-8 table."""
    if not name or name.startswith("/") or ".." in name.split("/"):
        return False
    return not any(c in name for c in "\t\n\r\0") and name.encode(errors="ignore").decode() == name


def _difference(have: Manifest, want: Manifest) -> str:
    if len(have.class_names) != len(want.class_names):
        return f"{len(have.class_names)} there, {len(want.class_names)} here"
    pairs = zip(have.class_names, want.class_names, strict=True)
    index, (there, here) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
    return f"class {index} is {there!r} there, {here!r} here"
