"""One record of a shard: the cumulative map, the last attention and the counters of one pair.

    generation u64 | row u32 | accepted u32 | flags u32 | crc32 u32 | M bytes | A bytes

little-endian. Map and attention share a record because they always change together; with
41 x 41 uint8 maps it takes 3,386 bytes, which fits the single 4 KiB page that LMDB gives to a
value of that size. The checksum covers everything but itself, so that a damaged or misplaced
record is noticed.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

HEADER = struct.Struct("<QIIII")
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


class DamagedRecordError(ValueError):
    """A record whose size or checksum does not fit."""


def encode(record: Record) -> bytes:
    """The bytes of a record."""
    flags = FALLBACK if record.fallback else 0
    payload = record.map_SS.tobytes() + record.last_SS.tobytes()
    head = HEADER.pack(record.generation, record.row, record.accepted, flags, 0)
    crc = zlib.crc32(payload, zlib.crc32(head))
    return head[:-4] + struct.pack("<I", crc) + payload


def decode(data: bytes, size: int, dtype: np.dtype) -> Record:
    """The record in `data`, with maps of size x size cells.

    Raises:
        DamagedRecordError: with a short reason.
    """
    cells = size * size * dtype.itemsize
    if len(data) != HEADER.size + 2 * cells:
        raise DamagedRecordError(f"{len(data)} bytes, expected {HEADER.size + 2 * cells}")
    generation, row, accepted, flags, crc = HEADER.unpack_from(data)
    head = data[: HEADER.size - 4] + b"\0\0\0\0"
    if zlib.crc32(data[HEADER.size :], zlib.crc32(head)) != crc:
        raise DamagedRecordError("checksum does not match")
    maps = np.frombuffer(data, dtype, offset=HEADER.size).reshape(2, size, size)
    return Record(generation, row, accepted, bool(flags & FALLBACK), maps[0], maps[1])


def peek_generation(data: bytes) -> int:
    """The generation of a record, without checking the rest."""
    return HEADER.unpack_from(data)[0]
