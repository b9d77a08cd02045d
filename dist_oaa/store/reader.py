"""A whole store, read by anybody while nobody writes it."""

import contextlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.latest import Latest
from dist_oaa.runtime.lease import is_held
from dist_oaa.store.codec import Record, record_size
from dist_oaa.store.folder import lease_path, open_shard, shard_name
from dist_oaa.store.manifest import MANIFEST, Manifest
from dist_oaa.store.shard import Shard
from dist_oaa.store.survey import (
    DATA,
    EmptyShardError,
    checked_stamp,
    open_survey,
    raise_first,
)


class StoreReader:
    """A whole store, read-only.

    Args:
        folder: a store, or a run directory that holds one.

    Raises:
        UserError: when there is no store, or a run is writing it.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / MANIFEST).exists() and (folder / "store" / MANIFEST).exists():
            folder = folder / "store"
        self.folder = folder
        self.manifest = Manifest.read(folder)
        for index in range(self.manifest.shards):
            if is_held(lease_path(folder, shard_name(index))):
                raise UserError(
                    f"{folder} is being written by a run; read it when the run has ended"
                )

    @cached_property
    def published(self) -> int | None:
        """The generation that the run's latest checkpoint names; None for a store alone.

        Raises:
            UserError: when latest.json is damaged.
        """
        try:
            return Latest.read(self.folder.parent / "checkpoints").generation
        except FileNotFoundError:
            return None

    @cached_property
    def generation(self) -> int:
        """The published generation; for a store alone, the newest that every shard has reached.

        Raises:
            UserError: when latest.json, or a shard of a store alone, is damaged.
        """
        if self.published is not None:
            return self.published
        return min(self.span(index)[1] for index in range(self.manifest.shards))

    def span(self, index: int) -> tuple[int, int]:
        """The oldest and the newest generation that a shard can be opened at.

        Raises:
            EmptyShardError: when nothing was ever committed to it.
            UserError: when it is missing, damaged, or another store's.
        """
        folder, manifest = self.folder / shard_name(index), self.manifest
        rows = int(manifest.rows_of_shard[index])
        size = record_size(manifest.map_size, np.dtype(manifest.dtype))
        with open_survey(folder, rows, size) as survey:
            stamp = checked_stamp(survey, folder, manifest.store_id, index)
            raise_first(survey, folder)
        if stamp is None:
            raise EmptyShardError(f"shard {folder} is empty, expected a shard of a store")
        return stamp.oldest, stamp.generation

    def shard(self, index: int, generation: int | None = None) -> Shard:
        """Opens a shard for reading, as of the published generation; the caller closes it.

        Raises:
            UserError: when it is missing or damaged.
        """
        folder = self.folder / shard_name(index)
        generation = self.generation if generation is None else generation
        return open_shard(folder, self.manifest, index, generation, writable=False)

    def records(self, shards: Iterable[int] | None = None) -> Iterator[tuple[str, int, Record]]:
        """(image name, class index, record) of every pair that has one, shard after shard.

        Args:
            shards: numbers of the shards to read, all when left out.

        Raises:
            UserError: when a shard or record is missing or damaged.
        """
        for index in range(self.manifest.shards) if shards is None else shards:
            owners = self.manifest.pairs_of_shard(index)
            with contextlib.closing(self.shard(index)) as shard:
                for record in shard.read():
                    yield *owners[record.row], record


def is_complete(folder: Path) -> bool:
    """Whether every shard of a store has reached a generation: it holds maps that could be lost.

    Raises:
        UserError: when a run is writing it, or its manifest or a shard is damaged.
    """
    reader = StoreReader(folder)
    files = [folder / shard_name(i) / DATA for i in range(reader.manifest.shards)]
    # A run that is killed while it opens its shards leaves files of no bytes, or without a record.
    if not all(file.exists() and file.stat().st_size for file in files):
        return False
    try:
        return reader.generation > 0
    except EmptyShardError:
        return False
