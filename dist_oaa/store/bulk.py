"""Many records at a time: the bytes that codec.encode gives, made by columns.

A commit runs beside training and shares the interpreter's lock with it, so that nothing here is a
Python statement for each row: headers are filled and checked by columns, and the views that LMDB
reads from are made once and used for every chunk.

Legend: K rows, N those of one chunk, B bytes of a header, S cells along each side of a map.
"""

import functools
import threading
from collections.abc import Iterator

import numpy as np

from dist_oaa.store.codec import (
    CHECKED,
    FALLBACK,
    HEADER,
    ChangedRows,
    DamagedRecordError,
    crc32,
)

# A chunk stays in a core's cache from the first copy to LMDB's, and training waits 0.3 ms for the
# interpreter's lock at the most.
CHUNK_BYTES = 1 << 20
CHUNK_ROWS = 256
KEY_LAYOUT = np.dtype([("row", ">u4"), ("slot", "u1")])

Items = Iterator[tuple[bytes, memoryview]]


class RecordBuffer:
    """Room for the records of one chunk."""

    def __init__(self, map_size: int, dtype: np.dtype) -> None:
        layout = np.dtype(
            [
                ("generation", "<u8"),
                ("row", "<u4"),
                ("accepted", "<u4"),
                ("flags", "<u4"),
                ("crc", "<u4"),
                ("head_crc", "<u4"),
                ("maps", dtype.newbyteorder("<"), (2, map_size, map_size)),
            ]
        )
        self.rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES // layout.itemsize))
        """How many fit."""
        self._records_N = np.empty(self.rows, layout)
        self._bytes = self._records_N.view(np.uint8)
        self._head_NB = self._bytes.reshape(self.rows, layout.itemsize)[:, :CHECKED]
        flat, size = memoryview(self._bytes), layout.itemsize
        self._values = [flat[low : low + size] for low in range(0, len(flat), size)]
        self._payloads = [value[HEADER.size :] for value in self._values]
        self._count = 0
        self.lock = threading.Lock()
        """To be held by the one shard that is using it."""

    def encode(self, generation: int, rows: ChangedRows, slot_K: np.ndarray) -> Iterator[Items]:
        """Keys and records of the rows in their slots, a chunk at a time.

        A chunk must be used up before the next one is asked for, which takes its place.
        """
        for low in range(0, len(rows), self.rows):
            part = slice(low, low + self.rows)
            count = len(rows.rows_K[part])
            records_N = self._records_N[:count]
            records_N["row"] = rows.rows_K[part]
            records_N["accepted"] = rows.accepted_K[part]
            records_N["flags"] = np.where(rows.fallback_K[part], FALLBACK, 0)
            records_N["maps"] = rows.maps_K2SS[part]
            crcs = map(crc32, self._payloads[:count])
            records_N["crc"] = np.fromiter(crcs, np.uint32, count)
            yield self._finish(generation, rows.rows_K[part], slot_K[part])

    def renew(
        self, generation: int, row_N: np.ndarray, slot_N: np.ndarray, data: list[memoryview]
    ) -> Items:
        """Records of one chunk as they are, but of another generation, with keys.

        The maps are neither looked at nor summed again: damage in them stays visible.

        Raises:
            DamagedRecordError: when a record has another size, a wrong header or another row.
        """
        count, size = len(data), self._records_N.itemsize
        fits_N = np.fromiter(map(len, data), np.int64, count) == size
        if fits_N.all():
            self._bytes[: count * size] = np.frombuffer(b"".join(data), np.uint8)
            records_N = self._records_N[:count]
            fits_N = records_N["head_crc"] == crc32_of_rows(self._head_NB[:count])
            fits_N &= records_N["row"] == row_N
        if not fits_N.all():
            raise DamagedRecordError(
                f"row {row_N[fits_N.argmin()]} is damaged: its size, its header or its row is wrong"
            )
        return self._finish(generation, row_N, slot_N)

    def heads(self) -> np.ndarray:
        """uint32: the checksum of each header of the chunk that was made last."""
        return self._records_N["head_crc"][: self._count].copy()

    def _finish(self, generation: int, row_N: np.ndarray, slot_N: np.ndarray) -> Items:
        self._count = count = len(row_N)
        self._records_N["generation"][:count] = generation
        self._records_N["head_crc"][:count] = crc32_of_rows(self._head_NB[:count])
        return zip(keys(row_N, slot_N), self._values[:count], strict=True)


def keys(row_K: np.ndarray, slot_K: np.ndarray) -> list[bytes]:
    """The keys of rows in their slots."""
    keys_K = np.empty(len(row_K), KEY_LAYOUT)
    keys_K["row"], keys_K["slot"] = row_K, slot_K
    return keys_K.view(f"V{KEY_LAYOUT.itemsize}").tolist()


def crc32_of_rows(bytes_NB: np.ndarray) -> np.ndarray:
    """CRC-32 of each row of bytes, uint32.

    Among messages of one length, the checksum is a constant XOR a share of each byte.
    """
    length = bytes_NB.shape[1]
    share_BV, constant = _shares(length)
    place_NB = bytes_NB + np.arange(length) * 256
    return np.bitwise_xor.reduce(share_BV.ravel().take(place_NB), axis=1) ^ constant


@functools.cache
def _shares(length: int) -> tuple[np.ndarray, np.uint32]:
    """What each value V of each byte B adds to the checksum, and that of zeros alone."""
    constant = crc32(bytes(length))
    share_BV = np.empty((length, 256), np.uint32)
    for byte in range(length):
        before, after = bytes(byte), bytes(length - byte - 1)
        share_BV[byte] = [crc32(before + bytes([v]) + after) ^ constant for v in range(256)]
    return share_BV, np.uint32(constant)
