"""Finds the records of a shard's file without its tree: by their own checksums, wherever they lie.

LMDB keeps what it has replaced until the pages are used again, so that older records and those of
an abandoned attempt are found as well; repair.py holds the choice against the shard's own sum.

Legend: N places in a part of the file.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dist_oaa.store.bulk import crc32_of_rows
from dist_oaa.store.codec import CHECKED, FALLBACK, HEADER, DamagedRecordError, crc32
from dist_oaa.store.stamp import Stamp

WINDOW = 16 << 20
BLOCK = 4096
STAMPS = re.compile(rb'[0-9a-f]{8}\{"store_id"[^{}]{1,500}\}')


@dataclass
class Found:
    """What a file holds of a shard."""

    records: dict[int, dict[int, bytes]] = field(default_factory=dict)
    """By row and generation, each sound."""
    broken: dict[int, int] = field(default_factory=dict)
    """By row, the newest generation whose header is sound and whose maps are not; -1 where not
    even the header is."""
    stamps: list[Stamp] = field(default_factory=list)
    """Everything that the shard has said of itself, each sound."""
    searched: bool = False
    """Found without the tree: what is not here may have been there."""

    def add(self, row: int, generation: int, data: bytes) -> None:
        """Notes a record, sound or not in its maps."""
        if crc32(data[HEADER.size :]) == int.from_bytes(data[20:24], "little"):
            self.records.setdefault(row, {})[generation] = data
        else:
            self.broken[row] = max(generation, self.broken.get(row, -1))


def salvage(path: Path, rows: int, record_bytes: int) -> Found:
    """Searches a whole file.

    Raises:
        OSError: when it cannot be opened.
    """
    found = Found(searched=True)
    for data in _windows(path, record_bytes):
        for at in _headers(data, rows, len(data) - record_bytes):
            record = data[at : at + record_bytes]
            generation, row = HEADER.unpack_from(record)[:2]
            found.add(row, generation, record)
        for text in STAMPS.findall(data):
            with suppress(DamagedRecordError):
                found.stamps.append(Stamp.decode(text))
    return found


def _windows(path: Path, overlap: int) -> Iterator[bytes]:
    """Parts of a file that overlap by a record; what the disk cannot read is zero."""
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        for at in range(0, max(1, length), WINDOW):
            yield _read(file.fileno(), at, WINDOW + overlap + BLOCK)


def _read(file: int, at: int, size: int) -> bytes:
    try:
        return os.pread(file, size, at)
    except OSError:
        parts = []
        for block in range(at, at + size, BLOCK):
            try:
                parts.append(os.pread(file, BLOCK, block))
            except OSError:
                parts.append(bytes(BLOCK))
        return b"".join(parts)


def _headers(data: bytes, rows: int, last: int) -> list[int]:
    """Places up to `last` where a sound header begins: of the likely ones those that add up."""
    if last < 0:
        return []
    bytes_N, count = np.frombuffer(data, np.uint8), last + 1

    def at(offset: int) -> np.ndarray:
        return bytes_N[offset : offset + count]

    # generation: 0 < u64 < 2^32; row: u32; flags: u32
    likely_N = (at(4) | at(5) | at(6) | at(7) | at(17) | at(18) | at(19)) == 0
    likely_N &= ((at(0) | at(1) | at(2) | at(3)) > 0) & (at(16) <= FALLBACK)
    at_N = np.flatnonzero(likely_N)
    row_N4 = bytes_N[at_N[:, None] + np.arange(8, 12)]
    at_N = at_N[row_N4.view("<u4")[:, 0] < rows]
    sound = []
    for part_N in np.array_split(at_N, -(-len(at_N) // BLOCK) or 1):
        heads_NB = bytes_N[part_N[:, None] + np.arange(HEADER.size)]
        crc_N = heads_NB[:, CHECKED:].copy().view("<u4")[:, 0]
        sound += part_N[crc32_of_rows(heads_NB[:, :CHECKED]) == crc_N].tolist()
    return sound
