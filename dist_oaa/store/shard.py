"""One shard: an LMDB environment with one writer that keeps two generations of every row.

Each row has two slots. A commit of generation g writes the slot that does not hold the row's
newest published record, so that the state before g stays readable until g is published, which
happens elsewhere, by one rename, after all shards have committed. A shard that is opened at
generation g ignores newer records; its next writer deletes them.

LMDB: plain (not writemap) mode, since that raises on a full disk and keeps the last commit;
lock=False, since the lease guarantees one writer and readers are refused while it is held. LMDB
gets to see a file only after survey.py has been through it.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.faults import fault_point
from dist_oaa.runtime.files import disk_words, sync_folder
from dist_oaa.store.bulk import RecordBuffer
from dist_oaa.store.codec import ChangedRows, DamagedRecordError, Record, decode, record_size
from dist_oaa.store.stamp import STAMP, Stamp, as_of, newest, table_sum
from dist_oaa.store.survey import (
    DATA,
    KEY,
    PAGE,
    EmptyShardError,
    check_reach,
    checked_stamp,
    open_survey,
    raise_first,
)
from dist_oaa.store.transaction import Plan, plan_commit, write


def record_pages(record_bytes: int) -> int:
    """Pages that LMDB gives to a record, at the most."""
    return -(-record_bytes // PAGE) + 1


def environment_size(rows: int, record_bytes: int) -> int:
    """Address space that a shard begins with, in bytes: reserved, not allocated.

    Live data is two records a row; a transaction that rewrites every row needs a third set of
    pages before the freed ones come back. Eight times one set leaves room for both. Where that is
    too little, a commit doubles it.
    """
    return 8 * rows * record_pages(record_bytes) * PAGE + (16 << 20)


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
        UserError: when the environment is missing, damaged, behind `generation` or too far ahead
            of it, or another store's.
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
        self._stamp = Stamp.first(store_id, index, rows)
        # generation of each slot, -1 where it is empty, and the checksum of its header
        self._slots_R2 = np.full((rows, 2), -1, dtype=np.int64)
        self._heads_R2 = np.zeros((rows, 2), np.uint32)
        if not self.path.exists() and (generation or not writable):
            raise UserError(f"shard {folder} is missing")
        fresh = not self.path.exists() or (
            writable and not generation and not self.path.stat().st_size
        )
        if not fresh:
            self._take_over(generation, writable)
        self._env = self._open(writable, fresh)
        try:
            if writable:
                self._pad()
                self._delete_newer(generation)
        except lmdb.Error as error:
            self.close()
            raise UserError(f"shard {folder} is damaged: {error}") from error
        except BaseException:
            self.close()
            raise

    def _take_over(self, generation: int, writable: bool) -> None:
        """Learns from the file which slot holds what, as of a generation."""
        stamp = self._stamp
        with open_survey(self.folder, self.rows, self._record_size, writable) as survey:
            found = checked_stamp(survey, self.folder, stamp.store_id, stamp.shard)
            if found is None and (generation or not writable):
                raise EmptyShardError(f"shard {self.folder} is empty, expected a shard of a store")
            if found is not None:
                check_reach(found, generation, self.folder)
                survey.check(generation)
                raise_first(survey, self.folder)
                self._stamp = found
            self._slots_R2, self._heads_R2 = survey.slots_R2, survey.heads_R2
            if not writable:
                self._slots_R2 = as_of(self._slots_R2, generation)

    def _open(self, writable: bool, fresh: bool) -> lmdb.Environment:
        try:
            if writable:
                self.folder.mkdir(parents=True, exist_ok=True)
            return lmdb.open(
                str(self.folder),
                map_size=environment_size(self.rows, self._record_size),
                readonly=not writable,
                lock=False,
                readahead=False,
            )
        except (lmdb.Error, OSError) as error:
            if fresh:
                # On a full disk LMDB leaves one of its first two pages, which it refuses later.
                self.path.unlink(missing_ok=True)
            words = disk_words(error, self.folder, 2 * PAGE) if fresh else error
            raise UserError(f"shard {self.folder} cannot be opened: {words}") from error

    def _pad(self) -> None:
        """Extends the file to the length that LMDB speaks of.

        LMDB does not write pages that one transaction both took and freed, even at the end of
        the file; without this, such a file could not be told from a truncated one.
        """
        length = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        if length > os.path.getsize(self.path):
            os.truncate(self.path, length)

    def _delete_newer(self, generation: int) -> None:
        """Forgets what was never published.

        The shard's own generation goes back too: together with shards that a next, interrupted
        commit did reach, this one would otherwise seem to have reached it.
        """
        if self.committed <= generation:
            return
        stale = np.argwhere(self._slots_R2 > generation).tolist()
        self._slots_R2 = as_of(self._slots_R2, generation)
        total = table_sum(self._slots_R2, self._heads_R2, generation)
        with self._env.begin(write=True) as txn:
            for row, slot in stale:
                txn.delete(KEY.pack(row, slot))
            stamp = self._stamp.back_to(txn.id(), generation, total)
            txn.put(STAMP, stamp.encode())
        self._stamp = stamp
        self._pad()

    @property
    def committed(self) -> int:
        """The newest generation that a commit reached, published or not; 0 when there is none."""
        return self._stamp.generation

    @property
    def live_rows(self) -> list[int]:
        """Rows that were ever written, ascending."""
        return np.flatnonzero(newest(self._slots_R2)[0] >= 0).tolist()

    def get(self, row: int) -> Record:
        """The live record of a row of `live_rows`.

        Raises:
            UserError: when it is damaged, or was written anew since the shard was opened.
        """
        slot = int(self._slots_R2[row].argmax())
        try:
            with self._reading() as txn:
                data = txn.get(KEY.pack(row, slot), default=b"")
        except lmdb.Error as error:
            raise UserError(f"shard {self.folder}, row {row} is damaged: {error}") from error
        with self._damage_named(row):
            record = decode(data, self.map_size, self.dtype)
            if record.row != row:
                raise DamagedRecordError(f"it says it is row {record.row}")
        if record.generation != self._slots_R2[row, slot]:
            raise UserError(
                f"shard {self.folder}, row {row} was written by a run while it was being read; "
                "read it when the run has ended"
            )
        return record

    def _reading(self) -> lmdb.Transaction:
        try:
            return self._env.begin()
        except lmdb.MapResizedError:
            # A run in another process has made the file larger than what was reserved here.
            self._env.set_mapsize(0)
            return self._env.begin()

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
        needed = len(plan.written) * record_pages(self._record_size) * PAGE
        buffer = buffer or RecordBuffer(self.map_size, self.dtype)
        try:
            while not self._transact(plan, buffer):
                self._env.set_mapsize(2 * self._env.info()["map_size"])
            self._pad()
        except (lmdb.Error, OSError) as error:
            words = disk_words(error, self.folder, needed)
            raise OSError(f"shard {self.folder} cannot be written: {words}") from error
        except DamagedRecordError as error:
            raise UserError(f"shard {self.folder}, {error}") from error
        return len(plan.written) * self._record_size

    def _transact(self, plan: Plan, buffer: RecordBuffer) -> bool:
        """Writes a plan as one transaction; False, with nothing written, when the map is full."""
        slots_R2, heads_R2 = self._slots_R2.copy(), self._heads_R2.copy()
        place = plan.written, plan.target_R[plan.written]
        try:
            # The buffer is free again before the transaction waits for the disk.
            with self._env.begin(write=True, buffers=True) as txn, buffer.lock:
                heads_R2[place] = write(txn, plan, buffer)
                slots_R2[place] = plan.generation
                total = table_sum(slots_R2, heads_R2, plan.generation)
                stamp = self._stamp.after(txn.id(), plan.generation, total)
                txn.put(STAMP, stamp.encode())
                fault_point("store.commit.before")
            fault_point("store.commit.after")
        except lmdb.MapFullError:
            return False
        self._slots_R2, self._heads_R2, self._stamp = slots_R2, heads_R2, stamp
        return True

    def copy_to(self, folder: Path) -> None:
        """Copies the environment to a shared folder, whole or not at all.

        Raises:
            OSError: when the disk is full or fails; the old copy stays.
        """
        temporary = folder / ".data.mdb.tmp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(self.path, "rb") as source, open(temporary, "wb") as target:
                shutil.copyfileobj(source, target, 8 << 20)
                target.flush()
                fault_point("store.copy.fsync")
                os.fsync(target.fileno())
            os.replace(temporary, folder / DATA)
            sync_folder(folder)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            words = disk_words(error, folder, os.path.getsize(self.path))
            raise OSError(f"shard {folder} cannot be written: {words}") from error
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Closes the environment."""
        with contextlib.suppress(lmdb.Error):
            self._env.close()
