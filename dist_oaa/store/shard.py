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
from collections.abc import Iterable, Iterator
from pathlib import Path

import lmdb
import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.files import sync_folder
from dist_oaa.store.codec import DamagedRecordError, Record, decode, encode, peek_generation

META = b"meta"
KEY = struct.Struct(">IB")  # row, slot: big-endian, so that LMDB's order is the rows' order
PAGE = 4096


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
        writable: open as the owner; the folder is made when it is missing.
        generation: the published generation; newer records are unpublished leftovers.

    Raises:
        UserError: when the environment is missing, damaged or another store's.
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
        self._identity = {"store_id": store_id, "shard": index}
        record_bytes = 24 + 2 * map_size * map_size * self.dtype.itemsize
        if writable:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self._env = lmdb.open(
                str(folder),
                map_size=environment_size(rows, record_bytes),
                readonly=not writable,
                lock=False,
                readahead=False,
                meminit=False,
            )
            # generation of each slot, -1 where empty, and the slot that holds the live record
            self._slots_R2 = np.full((rows, 2), -1, dtype=np.int64)
            self._check_identity(new=writable and generation == 0)
            self._scan(generation, writable)
        except lmdb.Error as error:
            raise UserError(f"shard {folder} cannot be opened: {error}") from error

    def _check_identity(self, new: bool) -> None:
        with self._env.begin() as txn:
            raw = txn.get(META)
        if raw is None:
            if not new:
                raise UserError(f"shard {self.folder} is empty, expected a shard of a store")
            return
        meta = json.loads(bytes(raw))
        for key, value in self._identity.items():
            if meta.get(key) != value:
                raise UserError(
                    f"shard {self.folder} has {key} {meta.get(key)}, expected {value}: "
                    "it belongs to another store"
                )

    def _scan(self, generation: int, writable: bool) -> None:
        """Learns which slot holds what, and forgets what was never published."""
        stale = []
        with self._env.begin(buffers=True) as txn:
            for key, value in txn.cursor():
                if len(key) != KEY.size:
                    continue
                row, slot = KEY.unpack(key)
                if row >= self.rows:
                    raise UserError(f"shard {self.folder} has row {row}, expected < {self.rows}")
                written = peek_generation(value)
                if written > generation:
                    stale.append(bytes(key))
                else:
                    self._slots_R2[row, slot] = written
        if stale and writable:
            with self._env.begin(write=True) as txn:
                for key in stale:
                    txn.delete(key)

    @property
    def committed(self) -> int:
        """The newest generation that a commit reached, published or not; 0 when there is none."""
        with self._env.begin() as txn:
            raw = txn.get(META)
        return json.loads(bytes(raw))["generation"] if raw is not None else 0

    def read(self) -> Iterator[Record]:
        """The live record of each row that was ever written, in row order.

        Raises:
            UserError: when a record is damaged.
        """
        live_R = self._slots_R2.argmax(axis=1)
        with self._env.begin() as txn:
            for row in np.flatnonzero(self._slots_R2.max(axis=1) >= 0).tolist():
                data = txn.get(KEY.pack(row, int(live_R[row])))
                try:
                    record = decode(data, self.map_size, self.dtype)
                    if record.row != row:
                        raise DamagedRecordError(f"it says it is row {record.row}")
                except DamagedRecordError as error:
                    raise UserError(
                        f"shard {self.folder}, row {row} is damaged: {error}"
                    ) from error
                yield record

    def commit(self, generation: int, records: Iterable[Record]) -> int:
        """Makes records durable as one transaction; they become live for this object.

        The previous live record of each row stays in its other slot.

        Returns:
            the number of bytes of the records.

        Raises:
            OSError: when the disk is full or fails; nothing of the transaction is kept.
        """
        target_R = 1 - self._slots_R2.argmax(axis=1)
        target_R[self._slots_R2.max(axis=1) < 0] = 0
        written: list[int] = []
        size = 0

        def items() -> Iterator[tuple[bytes, bytes]]:
            nonlocal size
            for record in records:
                data = encode(record)
                written.append(record.row)
                size += len(data)
                yield KEY.pack(record.row, int(target_R[record.row])), data

        meta = json.dumps(self._identity | {"generation": generation}).encode()
        try:
            with self._env.begin(write=True) as txn, txn.cursor() as cursor:
                cursor.putmulti(items())
                txn.put(META, meta)
        except lmdb.Error as error:
            raise OSError(f"shard {self.folder} cannot be written: {error}") from error
        self._slots_R2[written, target_R[written]] = generation
        return size

    def copy_to(self, folder: Path) -> None:
        """Copies the environment to a shared folder, whole or not at all.

        Raises:
            OSError: when the disk is full or fails; the old copy stays.
        """
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / ".data.mdb.tmp"
        try:
            with open(self.folder / "data.mdb", "rb") as source, open(temporary, "wb") as target:
                shutil.copyfileobj(source, target, 8 << 20)
                target.flush()
                os.fsync(target.fileno())
            os.replace(temporary, folder / "data.mdb")
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(folder)

    def close(self) -> None:
        """Closes the environment."""
        with contextlib.suppress(lmdb.Error):
            self._env.close()
