"""One shard: an LMDB environment with one writer that keeps two generations of every row.

Each row has two slots. A commit of generation g writes the slot that does not hold the row's
newest published record, so that the state before g stays readable until g is published, which
happens elsewhere, by one rename, after all shards have committed. A shard that is opened at
generation g ignores newer records; its next writer deletes them.

LMDB: plain (not writemap) mode, since that raises on a full disk and keeps the last commit;
lock=False, since the lease guarantees one writer and readers are refused while it is held.
"""

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.files import sync_folder
from dist_oaa.store.bulk import RecordBuffer
from dist_oaa.store.codec import ChangedRows, DamagedRecordError, Record, decode, peek, record_size
from dist_oaa.store.transaction import newest, plan_commit, write

META = b"meta"
KEY = struct.Struct(">IB")  # row, slot: big-endian, so that LMDB's order is the rows' order
PAGE = 4096
DATA = "data.mdb"
# Pages at the end of the file that a crash just after a commit may leave unwritten, see _pad.
LOOSE_PAGES = 16


class EmptyShardError(UserError):
    """An environment that no commit has ever reached."""


def environment_size(rows: int, record_bytes: int) -> int:
    """Address space for a shard, in bytes: reserved, not allocated.

    Live data is two records a row; a transaction that rewrites every row needs a third set of
    pages before the freed ones come back. Eight times one set leaves room for both.
    """
    pages = -(-record_bytes // PAGE) + 1
    return 8 * rows * pages * PAGE + (16 << 20)


class Shard:
    """An open shard.

    Args:
        folder: folder of the LMDB environment.
        index: number of the shard, checked against what the environment says of itself.
        store_id: identity of the store, checked likewise.
        rows, map_size, dtype: layout, from the manifest.
        generation: the published generation; newer records are unpublished leftovers.
        writable: open as the owner; the folder is made when it is missing.

    Raises:
        UserError: when the environment is missing, damaged, behind `generation` or another
            store's.
    """

    def __init__(
        self,
        folder: Path,
        index: int,
        store_id: str,
        rows: int,
        map_size: int,
        dtype: str,
        generation: int,
        writable: bool,
    ) -> None:
        self.folder, self.index, self.rows = folder, index, rows
        self.map_size, self.dtype = map_size, np.dtype(dtype)
        self.path = folder / DATA
        self._record_size = record_size(map_size, self.dtype)
        self._identity = {"store_id": store_id, "shard": index}
        # generation of each slot, -1 where empty
        self._slots_R2 = np.full((rows, 2), -1, dtype=np.int64)
        if not self.path.exists() and (generation or not writable):
            raise UserError(f"shard {folder} is missing")
        try:
            if writable:
                folder.mkdir(parents=True, exist_ok=True)
            self._env = lmdb.open(
                str(folder),
                map_size=environment_size(rows, self._record_size),
                readonly=not writable,
                lock=False,
                readahead=False,
            )
        except (lmdb.Error, OSError) as error:
            raise UserError(f"shard {folder} cannot be opened: {error}") from error
        try:
            self._check_length(writable)
            self._check_identity(generation, new=writable and generation == 0)
            self._scan(generation, writable)
        except lmdb.Error as error:
            self.close()
            raise UserError(f"shard {folder} is damaged: {error}") from error
        except BaseException:
            self.close()
            raise

    def _missing_bytes(self) -> int:
        length = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        return length - os.path.getsize(self.path)

    def _check_length(self, writable: bool) -> None:
        """Refuses a truncated file: reading past its end would kill the process (SIGBUS)."""
        missing = self._missing_bytes()
        if missing > (LOOSE_PAGES * PAGE if writable else 0):
            raise UserError(f"shard {self.folder} is truncated: {missing:,} bytes are missing")
        if writable:
            self._pad()

    def _pad(self) -> None:
        """Extends the file to the length that LMDB speaks of.

        LMDB does not write pages that one transaction both took and freed, even at the end of
        the file; without this, such a file could not be told from a truncated one.
        """
        missing = self._missing_bytes()
        if missing > 0:
            os.truncate(self.path, os.path.getsize(self.path) + missing)

    def _meta(self) -> dict:
        with self._env.begin() as txn:
            raw = txn.get(META)
        try:
            return json.loads(bytes(raw)) if raw is not None else {}
        except ValueError as error:
            raise UserError(f"shard {self.folder} is damaged: {error}") from error

    def _check_identity(self, generation: int, new: bool) -> None:
        meta = self._meta()
        if not meta:
            if not new:
                raise EmptyShardError(f"shard {self.folder} is empty, expected a shard of a store")
            return
        for key, value in self._identity.items():
            if meta.get(key) != value:
                raise UserError(
                    f"shard {self.folder} has {key} {meta.get(key)}, expected {value}: "
                    "it belongs to another store"
                )
        if meta["generation"] < generation:
            raise UserError(
                f"shard {self.folder} ends with generation {meta['generation']}, expected "
                f"{generation} like the checkpoint: it is an older copy"
            )

    def _scan(self, generation: int, writable: bool) -> None:
        """Learns which slot holds what, and forgets what was never published."""
        stale = []
        with self._env.begin(buffers=True) as txn:
            for key, value in txn.cursor():
                if len(key) != KEY.size:
                    continue
                row, slot = KEY.unpack(key)
                if row >= self.rows or slot > 1:
                    raise UserError(
                        f"shard {self.folder} has row {row} in slot {slot}, expected "
                        f"{self.rows} rows with 2 slots"
                    )
                with self._damage_named(row):
                    written, said = peek(value)
                    _check_row(said, row)
                if written > generation:
                    stale.append(bytes(key))
                else:
                    self._slots_R2[row, slot] = written
        if writable and self.committed > generation:
            # The generation goes back too: together with shards that a next, interrupted commit
            # did reach, this one would otherwise seem to have reached it.
            with self._env.begin(write=True) as txn:
                for key in stale:
                    txn.delete(key)
                txn.put(META, json.dumps(self._identity | {"generation": generation}).encode())
            self._pad()

    @property
    def committed(self) -> int:
        """The newest generation that a commit reached, published or not; 0 when there is none."""
        return self._meta().get("generation", 0)

    @property
    def live_rows(self) -> list[int]:
        """Rows that were ever written, ascending."""
        return np.flatnonzero(newest(self._slots_R2)[0] >= 0).tolist()

    def get(self, row: int) -> Record:
        """The live record of a row of `live_rows`.

        Raises:
            UserError: when it is damaged.
        """
        key = KEY.pack(row, int(self._slots_R2[row].argmax()))
        try:
            with self._env.begin() as txn:
                data = txn.get(key, default=b"")
        except lmdb.Error as error:
            raise UserError(f"shard {self.folder}, row {row} is damaged: {error}") from error
        with self._damage_named(row):
            record = decode(data, self.map_size, self.dtype)
            _check_row(record.row, row)
        return record

    @contextlib.contextmanager
    def _damage_named(self, row: int) -> Iterator[None]:
        try:
            yield
        except DamagedRecordError as error:
            raise UserError(f"shard {self.folder}, row {row} is damaged: {error}") from error

    def read(self) -> Iterator[Record]:
        """The live record of each row that was ever written, in row order.

        Raises:
            UserError: when a record is damaged.
        """
        for row in self.live_rows:
            yield self.get(row)

    def commit(self, generation: int, rows: ChangedRows, buffer: RecordBuffer | None = None) -> int:
        """Makes rows durable as one transaction; they become live for this object.

        The previous live record of each row stays in its other slot; it must be published before
        a commit of a later generation overwrites it.

        Args:
            rows: ascending rows of the shard with their content.
            buffer: what other shards use too, one at a time; one of its own when left out.

        Returns:
            the number of bytes of the records.

        Raises:
            OSError: when the disk is full or fails; nothing of the transaction is kept.
            UserError: when a record on the disk is damaged; likewise.
        """
        assert generation >= self._slots_R2.max(initial=0), "generations go up"
        assert rows.maps_K2SS.dtype == self.dtype
        plan = plan_commit(self._slots_R2, generation, rows, self._record_size > PAGE // 2)
        buffer = buffer or RecordBuffer(self.map_size, self.dtype)
        meta = json.dumps(self._identity | {"generation": generation}).encode()
        try:
            # The buffer is free again before the transaction waits for the disk.
            with self._env.begin(write=True, buffers=True) as txn, buffer.lock:
                write(txn, plan, buffer)
                txn.put(META, meta)
            self._pad()
        except lmdb.Error as error:
            raise OSError(f"shard {self.folder} cannot be written: {error}") from error
        except DamagedRecordError as error:
            raise UserError(f"shard {self.folder}, {error}") from error
        self._slots_R2[plan.written, plan.target_R[plan.written]] = generation
        return len(plan.written) * self._record_size

    def copy_to(self, folder: Path) -> None:
        """Copies the environment to a shared folder, whole or not at all.

        Raises:
            OSError: when the disk is full or fails; the old copy stays.
        """
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / ".data.mdb.tmp"
        try:
            with open(self.path, "rb") as source, open(temporary, "wb") as target:
                shutil.copyfileobj(source, target, 8 << 20)
                target.flush()
                os.fsync(target.fileno())
            os.replace(temporary, folder / DATA)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(folder)

    def close(self) -> None:
        """Closes the environment."""
        with contextlib.suppress(lmdb.Error):
            self._env.close()


def _check_row(said: int, row: int) -> None:
    if said != row:
        raise DamagedRecordError(f"it says it is row {said}")
