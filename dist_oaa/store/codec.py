"""One record of a shard: the cumulative map, the last attention and the counters of one pair.

    generation u64 | row u32 | accepted u32 | flags u32 | crc u32 | head crc u32 | M bytes | A bytes

little-endian. Map and attention share a record because they always change together; with
41 x 41 uint8 maps it takes 3,390 bytes, which fits the single 4 KiB page that LMDB gives to a
value of that size.

`crc` is the CRC-32 of both maps, `head crc` that of the header before it, so that every bit is
covered. The header has its own, since opening a shard trusts the generations of all records but
reads no maps: a damaged generation must not pass for an older or an unpublished record.
"""

import struct
from dataclasses import dataclass

import numpy as np
from isal.isal_zlib import crc32  # zlib's checksum, five times as fast

HEADER = struct.Struct("<QIIIII")
CHECKED = HEADER.size - 4  # bytes that the header's own checksum covers
FALLBACK = 1


@dataclass
class Record:
    """A decoded record."""

    generation: int
    row: int
    accepted: int
    fallback: bool
    map_SS: np.ndarray
    last_SS: np.ndarray


@dataclass
class ChangedRows:
    """K rows to commit, as columns.

    Legend: K rows; 2 the cumulative map M, then the last attention A; S cells along each side.
    """

    rows_K: np.ndarray
    """int64: ascending rows, of the bank or of a shard."""
    maps_K2SS: np.ndarray
    """In the store's number format; a view with strides will do."""
    accepted_K: np.ndarray
    """int32, not negative."""
    fallback_K: np.ndarray
    """bool"""

    def __len__(self) -> int:
        return len(self.rows_K)


class DamagedRecordError(ValueError):
    """A record whose size or checksum does not fit."""


def record_size(size: int, dtype: np.dtype) -> int:
    """Bytes of a record with maps of size x size cells."""
    return HEADER.size + 2 * size * size * dtype.itemsize


def encode(record: Record) -> bytes:
    """The bytes of a record."""
    payload = record.map_SS.tobytes() + record.last_SS.tobytes()
    flags = FALLBACK if record.fallback else 0
    crc = crc32(payload)
    head = HEADER.pack(record.generation, record.row, record.accepted, flags, crc, 0)[:CHECKED]
    return head + struct.pack("<I", crc32(head)) + payload


def decode(data: bytes, size: int, dtype: np.dtype) -> Record:
    """The record in `data`, with maps of size x size cells.

    Raises:
        DamagedRecordError: with a short reason.
    """
    if len(data) != record_size(size, dtype):
        raise DamagedRecordError(f"{len(data)} bytes, expected {record_size(size, dtype)}")
    generation, row, accepted, flags, crc = _header(data)
    if crc32(memoryview(data)[HEADER.size :]) != crc:
        raise DamagedRecordError("checksum of the maps does not match")
    maps = np.frombuffer(data, dtype, offset=HEADER.size).reshape(2, size, size)
    return Record(generation, row, accepted, bool(flags & FALLBACK), maps[0], maps[1])


def peek(data: bytes | memoryview) -> tuple[int, int]:
    """Generation and row of a record, whose maps are not looked at.

    Raises:
        DamagedRecordError: when the header is damaged.
    """
    return _header(data)[:2]


def _header(data: bytes | memoryview) -> tuple[int, ...]:
    if len(data) < HEADER.size:
        raise DamagedRecordError(f"{len(data)} bytes are less than a header")
    *fields, head_crc = HEADER.unpack_from(data)
    if crc32(memoryview(data)[:CHECKED]) != head_crc:
        raise DamagedRecordError("checksum of the header does not match")
    return tuple(fields)
