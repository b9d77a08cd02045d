"""The shards of a store that one rank owns, open for writing."""

import contextlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.faults import fault_point
from dist_oaa.runtime.files import disk_words
from dist_oaa.runtime.lease import Lease
from dist_oaa.store.bulk import RecordBuffer
from dist_oaa.store.codec import ChangedRows, Record
from dist_oaa.store.folder import lease_path, open_shard, shard_name
from dist_oaa.store.manifest import MANIFEST, Manifest
from dist_oaa.store.ownership import owned_shards
from dist_oaa.store.reader import is_complete
from dist_oaa.store.shard import Shard
from dist_oaa.store.survey import DATA
from dist_oaa.store.writeback import sent_early

# Shards that are being committed at the same time.
WRITERS = 8
# So few shards leave the disk idle while they compute.
FEW = 4


def prepare_store(folder: Path, manifest: Manifest, resume: bool, void: bool = False) -> Manifest:
    """Makes a new store's manifest, or checks an existing one; called by one rank.

    A new run may take over a store that never reached a complete generation: one of a run that
    was cut off before its first checkpoint.

    Args:
        void: what the store holds was never published, also where all shards have committed it.

    Returns:
        the manifest on disk.

    Raises:
        UserError: when maps would be lost, the store was made otherwise or is being written, or
            there is none to resume.
    """
    if (folder / MANIFEST).exists():
        existing = Manifest.read(folder)
        existing.check(manifest, folder)
        if not (resume or void) and is_complete(folder):
            raise UserError(
                f"{folder} holds the maps of an earlier run; continue it with --resume "
                "or choose another run_dir"
            )
        return existing
    if resume:
        raise UserError(f"{folder} does not exist: there is nothing to resume")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest.write(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {disk_words(error, folder)}") from error
    return manifest


class StoreWriter:
    """The shards that one rank owns, open for writing.

    Rows of the rank's bank are numbered shard after shard, in the order of the owned shards.

    Args:
        folder: the store, on storage that all nodes share.
        local_dir: where the live environments lie instead, on a node-local disk; every commit
            then copies them to `folder`, which remains the one that counts.
        generation: the published generation to start from, 0 for a new store.
        groups: groups of shards that are dealt to the ranks, 0 for each shard by itself.

    Raises:
        UserError: when another process writes one of the shards, or a shard is damaged.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        rank: int,
        world: int,
        generation: int,
        local_dir: str = "",
        groups: int = 0,
    ) -> None:
        self.manifest, self._folder = manifest, folder
        self._local = Path(local_dir) / manifest.store_id if local_dir else None
        self.owned = owned_shards(rank, world, manifest.shards, groups)
        rows = manifest.rows_of_shard[self.owned]
        self.offsets = dict(zip(self.owned, (np.cumsum(rows) - rows).tolist(), strict=True))
        self.rows = int(rows.sum())
        # Shared, since two shards that fill their transactions at the same time would only hand
        # the interpreter's lock back and forth, at every record.
        self._buffer = RecordBuffer(manifest.map_size, np.dtype(manifest.dtype))
        self._leases: list[Lease] = []
        self._shards: dict[int, Shard] = {}
        try:
            for index in self.owned:
                self._leases.append(Lease(lease_path(folder, shard_name(index))))
            for index in self.owned:
                self._shards[index] = self._open(index, generation)
        except BaseException:
            self.close()
            raise

    def _open(self, index: int, generation: int) -> Shard:
        folder = self._folder / shard_name(index)
        if self._local is not None:
            # The local copy may be another attempt's: the shared one is the truth.
            live = self._local / shard_name(index)
            try:
                live.mkdir(parents=True, exist_ok=True)
                (live / DATA).unlink(missing_ok=True)
                if (folder / DATA).exists():
                    shutil.copyfile(folder / DATA, live / DATA)
            except OSError as error:
                with contextlib.suppress(OSError):
                    (live / DATA).unlink()
                needed = (folder / DATA).stat().st_size if (folder / DATA).exists() else None
                raise UserError(
                    f"store.local_dir: {live} cannot be written: {disk_words(error, live, needed)}"
                ) from error
            folder = live
        return open_shard(folder, self.manifest, index, generation, writable=True)

    def first_row(self, image_N: np.ndarray) -> np.ndarray:
        """Bank row of the first pair of each image (indices in manifest order), int64."""
        shards_N = self.manifest.shard_N[image_N]
        offsets_N = np.array([self.offsets[s] for s in shards_N.tolist()], dtype=np.int64)
        return offsets_N + self.manifest.first_row_N[image_N]

    def read(self) -> Iterator[tuple[int, Record]]:
        """All live records with their bank rows.

        Raises:
            UserError: when a record is damaged.
        """
        for index, shard in self._shards.items():
            for record in shard.read():
                yield self.offsets[index] + record.row, record

    def commit(self, generation: int, rows: ChangedRows) -> int:
        """Writes rows of the bank as one transaction a shard.

        Args:
            rows: ascending rows of the bank with their content.

        Returns:
            the number of bytes of the records.

        Raises:
            UserError: when the disk is full or fails; the published generation stays readable.
        """
        try:
            # Waiting for the disk is most of a small commit, and shards can wait side by side.
            few = self._shards.values() if len(self._shards) < FEW else ()
            with (
                sent_early(shard.path for shard in few),
                ThreadPoolExecutor(WRITERS, "oaa-shard") as pool,
            ):
                return sum(
                    pool.map(lambda index: self._commit(index, generation, rows), self._shards)
                )
        except OSError as error:
            raise UserError(
                f"the maps could not be saved, the last checkpoint stays as it was: {error}"
            ) from error

    def _commit(self, index: int, generation: int, rows: ChangedRows) -> int:
        fault_point("store.shard")
        shard, first = self._shards[index], self.offsets[index]
        part = slice(*np.searchsorted(rows.rows_K, [first, first + shard.rows]))
        size = shard.commit(
            generation,
            ChangedRows(
                rows.rows_K[part] - first,
                rows.maps_K2SS[part],
                rows.accepted_K[part],
                rows.fallback_K[part],
            ),
            self._buffer,
        )
        if self._local is not None:
            shard.copy_to(self._folder / shard_name(index))
        return size

    def close(self) -> None:
        """Closes the shards and gives the leases back."""
        for shard in self._shards.values():
            shard.close()
        for lease in self._leases:
            lease.release()
        self._shards, self._leases = {}, []
