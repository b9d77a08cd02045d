"""A shard's file surveyed without LMDB: every record it holds, and every fault that shows.

Legend: R rows of the shard; 2 slots; N entries of the file.
"""

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.store.bulk import crc32_of_rows
from dist_oaa.store.codec import CHECKED, HEADER, DamagedRecordError, peek
from dist_oaa.store.pages import DamagedFileError, PageFile
from dist_oaa.store.stamp import STAMP, Stamp, as_of, newest, table_sum
from dist_oaa.store.tree import TreeReader

DATA = "data.mdb"
PAGE = 4096
# Pages at the end of the file that a crash just after a commit may leave unwritten, see
# Shard._pad.
LOOSE_PAGES = 16
KEY = struct.Struct(">IB")  # row, slot: big-endian, so that LMDB's order is the rows' order
HEAD = np.dtype([("generation", "<u8"), ("row", "<u4"), ("rest", "V12"), ("head_crc", "<u4")])


class EmptyShardError(UserError):
    """An environment that no commit has ever reached."""


@dataclass
class Fault:
    """Something that is not as it should be."""

    text: str
    """A phrase: what is wrong."""
    row: int = -1
    """Row of the shard that it concerns; -1 for the file as a whole."""
    slot: int = -1


class Survey:
    """What a shard's file holds.

    Args:
        path: data.mdb of the shard; it must exist.
        rows: rows of the shard.
        record_bytes: size of a record.

    Raises:
        DamagedFileError: when its first pages are damaged: nothing can be read by its tree.
        OSError: when it cannot be read.
    """

    def __init__(self, path: Path, rows: int, record_bytes: int) -> None:
        self.path, self.record_bytes = path, record_bytes
        self.faults: list[Fault] = []
        """Every fault but damaged maps, which `raw` and `codec.decode` find."""
        self.stamp: Stamp | None = None
        """What the shard says of itself; None where nothing was committed, or it is damaged."""
        self.slots_R2 = np.full((rows, 2), -1, np.int64)
        """Generation of each slot, -1 where it is empty or its header is damaged."""
        self.heads_R2 = np.zeros((rows, 2), np.uint32)
        """Checksum of each header."""
        self.at_R2 = np.full((rows, 2), -1, np.int64)
        """Where each record begins in the file."""
        self._file = PageFile(path)
        try:
            self._read_entries()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    @property
    def missing(self) -> int:
        """Bytes that the file is too short."""
        return max(0, self._file.missing)

    def raw(self, row: int, slot: int) -> bytes:
        """The bytes of a record.

        Raises:
            DamagedFileError: when the disk cannot read them.
        """
        return self._file.read(int(self.at_R2[row, slot]), self.record_bytes)

    def live_slot_R(self, generation: int) -> np.ndarray:
        """The slot of each row's live record as of a generation, -1 where there is none."""
        newest_R, slot_R = newest(as_of(self.slots_R2, generation))
        return np.where(newest_R >= 0, slot_R, -1)

    def check(self, generation: int) -> None:
        """Holds the records as of a generation against the shard's sum; notes what differs."""
        stamp = self.stamp
        if stamp is None:
            if not self.faults and (self.slots_R2 >= 0).any():
                self.faults.append(Fault("it has records but does not say of which generation"))
            return
        if stamp.transaction != self._file.roots.transaction:
            self.faults.append(
                Fault(
                    f"LMDB speaks of transaction {self._file.roots.transaction}, the shard of "
                    f"{stamp.transaction}"
                )
            )
        fits = stamp.oldest <= generation <= stamp.generation
        if fits and not any(fault.row >= 0 for fault in self.faults):
            total = table_sum(self.slots_R2, self.heads_R2, generation)
            if total != stamp.sum_at(generation):
                self.faults.append(
                    Fault(f"its records of generation {generation} do not match their sum")
                )

    def _read_entries(self) -> None:
        reader = TreeReader(self._file)
        entries = reader.entries()
        self.faults += [Fault(problem) for problem in reader.problems]
        records = []
        for key, at, size in zip(entries.keys_N, entries.at_N, entries.size_N, strict=True):
            if key == STAMP:
                self._read_stamp(at, size)
                continue
            row, slot = KEY.unpack(key) if len(key) == KEY.size else (-1, -1)
            if not 0 <= row < len(self.slots_R2) or slot > 1:
                place = f"row {row} in slot {slot}" if slot >= 0 else f"a key of {len(key)} bytes"
                self.faults.append(
                    Fault(f"it has {place}, expected {len(self.slots_R2)} rows with 2 slots")
                )
            elif size != self.record_bytes:
                self._damaged(row, slot, f"{size} bytes, expected {self.record_bytes}")
            else:
                records.append((row, slot, at))
        self._read_heads(records)

    def _read_stamp(self, at: int, size: int) -> None:
        try:
            self.stamp = Stamp.decode(self._file.read(at, size))
        except (DamagedRecordError, DamagedFileError) as error:
            self.faults.append(Fault(str(error)))

    def _read_heads(self, records: list[tuple[int, int, int]]) -> None:
        """Learns which slot holds what, from the headers alone."""
        heads, found = [], []
        for row, slot, at in records:
            try:
                heads.append(self._file.read(at, HEADER.size))
                found.append((row, slot, at))
            except DamagedFileError as error:
                self._damaged(row, slot, str(error))
        if not found:
            return
        head_N = np.frombuffer(b"".join(heads), HEAD)
        row_N, slot_N, at_N = np.array(found).T
        bytes_NB = head_N.view(np.uint8).reshape(len(head_N), HEADER.size)[:, :CHECKED]
        good_N = (crc32_of_rows(bytes_NB) == head_N["head_crc"]) & (head_N["row"] == row_N)
        for place in np.flatnonzero(~good_N):
            self._damaged(*found[place][:2], _reason(heads[place], found[place][0]))
        place_N = row_N[good_N], slot_N[good_N]
        self.slots_R2[place_N] = head_N["generation"][good_N]
        self.heads_R2[place_N] = head_N["head_crc"][good_N]
        self.at_R2[row_N, slot_N] = at_N

    def _damaged(self, row: int, slot: int, reason: str) -> None:
        self.faults.append(Fault(reason, row, slot))


def _reason(head: bytes, row: int) -> str:
    try:
        return f"it says it is row {peek(head)[1]}" if peek(head)[1] != row else ""
    except DamagedRecordError as error:
        return str(error)


@contextlib.contextmanager
def open_survey(
    folder: Path, rows: int, record_bytes: int, owner: bool = False
) -> Iterator[Survey]:
    """Surveys a shard's file.

    Args:
        owner: a file that lacks a few pages at its end is as LMDB left it, and will be mended.

    Raises:
        UserError: when it is missing, cannot be read, or its first pages are damaged.
    """
    try:
        survey = Survey(folder / DATA, rows, record_bytes)
    except FileNotFoundError as error:
        raise UserError(f"shard {folder} is missing") from error
    except OSError as error:
        raise UserError(f"shard {folder} cannot be opened: {error.strerror}") from error
    except DamagedFileError as error:
        raise UserError(f"shard {folder} is damaged: {error}") from error
    with contextlib.closing(survey):
        if survey.missing > (LOOSE_PAGES * PAGE if owner else 0):
            raise UserError(f"shard {folder} is truncated: {survey.missing:,} bytes are missing")
        yield survey


def checked_stamp(survey: Survey, folder: Path, store_id: str, index: int) -> Stamp | None:
    """What a shard says of itself; None when nothing was ever committed to it.

    Raises:
        UserError: when that is damaged, or it is another store's.
    """
    if survey.stamp is None:
        survey.check(0)
        raise_first(survey, folder)
        return None
    for key, value in (("store_id", store_id), ("shard", index)):
        if getattr(survey.stamp, key) != value:
            raise UserError(
                f"shard {folder} has {key} {getattr(survey.stamp, key)}, expected {value}: "
                "it belongs to another store"
            )
    return survey.stamp


def raise_first(survey: Survey, folder: Path) -> None:
    """Refuses a shard that has a fault.

    Raises:
        UserError: naming the first.
    """
    for fault in survey.faults:
        row = f", row {fault.row}" if fault.row >= 0 else ""
        raise UserError(f"shard {folder}{row} is damaged: {fault.text}")


def check_reach(stamp: Stamp, generation: int, folder: Path) -> None:
    """Refuses a shard that cannot be opened at a generation.

    Raises:
        UserError: when it is an older copy, or has moved on by more than one commit.
    """
    if stamp.generation < generation:
        raise UserError(
            f"shard {folder} ends with generation {stamp.generation}, expected "
            f"{generation} like the checkpoint: it is an older copy"
        )
    if generation < stamp.oldest:
        raise UserError(
            f"shard {folder} holds the maps of generation {stamp.oldest} on, expected {generation} "
            "like the checkpoint: of each map the last two commits are kept"
        )
