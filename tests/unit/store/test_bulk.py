"""Records made by columns: the bytes that codec.encode gives one at a time."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.store import codec
from dist_oaa.store.bulk import CHUNK_ROWS, RecordBuffer, crc32_of_rows, keys
from dist_oaa.store.codec import ChangedRows, DamagedRecordError, Record, encode
from dist_oaa.store.survey import KEY


def make_rows(count: int, dtype: str, size: int, seed: int) -> ChangedRows:
    """Random rows whose maps have strides, as those of a padded bank do."""
    rng = np.random.default_rng(seed)
    padded = (255 * rng.random((count, 2, size * size + 3))).astype(dtype)
    maps_K2SS = padded[:, :, : size * size].reshape(count, 2, size, size)
    assert count == 0 or size == 1 or not maps_K2SS.flags.c_contiguous
    rows_K = np.sort(rng.choice(2**32, count, replace=False)).astype(np.int64)
    accepted_K = rng.integers(0, 2**31, count, dtype=np.int32)
    return ChangedRows(rows_K, maps_K2SS, accepted_K, rng.random(count) < 0.5)


def one_by_one(generation: int, rows: ChangedRows) -> list[bytes]:
    columns = (rows.rows_K, rows.accepted_K, rows.fallback_K, rows.maps_K2SS)
    return [
        encode(Record(generation, int(row), int(accepted), bool(fallback), maps[0], maps[1]))
        for row, accepted, fallback, maps in zip(*columns, strict=True)
    ]


def encoded(buffer: RecordBuffer, generation: int, rows: ChangedRows, slot_K) -> list[tuple]:
    chunks = buffer.encode(generation, rows, slot_K)
    return [(bytes(key), bytes(value)) for items in chunks for key, value in items]


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([0, 1, 2, 5, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS + 7]),
    st.sampled_from(["uint8", "float16", "float32"]),
    st.integers(1, 6),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
)
def test_the_bytes_of_single_records(count, dtype, size, generation, seed):
    rows = make_rows(count, dtype, size, seed)
    slot_K = np.random.default_rng(seed).integers(0, 2, count)
    buffer = RecordBuffer(size, np.dtype(dtype))
    expected = one_by_one(generation, rows)
    # Twice, since a buffer is used again and again.
    for _ in range(2):
        found = encoded(buffer, generation, rows, slot_K)
        assert [value for _, value in found] == expected
        assert [key for key, _ in found] == [
            KEY.pack(row, slot) for row, slot in zip(rows.rows_K.tolist(), slot_K, strict=True)
        ]


def test_large_records_come_in_smaller_chunks():
    buffer = RecordBuffer(400, np.dtype("float32"))
    assert buffer.rows == 1
    rows = make_rows(3, "float32", 400, seed=0)
    found = encoded(buffer, 9, rows, np.zeros(3, np.int64))
    assert [value for _, value in found] == one_by_one(9, rows)


def test_renewed_records_differ_in_the_generation_alone():
    rows, slot_N = make_rows(7, "uint8", 4, seed=1), np.arange(7) % 2
    old = [memoryview(data) for data in one_by_one(3, rows)]
    buffer = RecordBuffer(4, np.dtype("uint8"))
    found = list(buffer.renew(2**40, rows.rows_K, slot_N, old))
    assert [bytes(value) for _, value in found] == one_by_one(2**40, rows)
    assert [key for key, _ in found] == keys(rows.rows_K, slot_N)


@pytest.mark.parametrize("byte", [0, 8, 12, 16, 20, 24, 27])
def test_a_damaged_header_is_not_renewed(byte):
    rows = make_rows(5, "uint8", 4, seed=2)
    old = one_by_one(3, rows)
    old[3] = old[3][:byte] + bytes([old[3][byte] ^ 1]) + old[3][byte + 1 :]
    with pytest.raises(DamagedRecordError, match=f"row {rows.rows_K[3]} is damaged"):
        RecordBuffer(4, np.dtype("uint8")).renew(4, rows.rows_K, np.zeros(5, np.int64), old)


@pytest.mark.parametrize("data", [b"", b"x" * 59, b"x" * 61])
def test_a_record_of_another_size_is_not_renewed(data):
    rows = make_rows(5, "uint8", 4, seed=3)
    old = [*one_by_one(3, rows)[:4], data]
    with pytest.raises(DamagedRecordError, match=f"row {rows.rows_K[4]} is damaged"):
        RecordBuffer(4, np.dtype("uint8")).renew(4, rows.rows_K, np.zeros(5, np.int64), old)


def test_a_record_of_another_row_is_not_renewed():
    rows = make_rows(5, "uint8", 4, seed=4)
    old = one_by_one(3, rows)
    with pytest.raises(DamagedRecordError, match=f"row {rows.rows_K[1]} is damaged"):
        RecordBuffer(4, np.dtype("uint8")).renew(
            4, rows.rows_K, np.zeros(5, np.int64), [old[0], old[2], *old[2:]]
        )


def test_damage_in_the_maps_stays_visible():
    rows = make_rows(1, "uint8", 4, seed=5)
    old = bytearray(one_by_one(3, rows)[0])
    old[40] ^= 1
    (_, value), *_ = RecordBuffer(4, np.dtype("uint8")).renew(
        4, rows.rows_K, np.zeros(1, np.int64), [memoryview(old)]
    )
    with pytest.raises(DamagedRecordError, match="checksum of the maps"):
        codec.decode(bytes(value), 4, np.dtype("uint8"))


@given(st.lists(st.binary(min_size=24, max_size=24), max_size=5))
def test_checksums_of_rows(messages):
    bytes_NB = np.frombuffer(b"".join(messages), np.uint8).reshape(-1, 24)
    assert crc32_of_rows(bytes_NB).tolist() == [zlib.crc32(message) for message in messages]


@given(st.binary(max_size=200))
def test_every_build_has_the_same_checksum(data):
    """Whichever library gives it: a store goes from machine to machine."""
    assert codec.crc32(data) == zlib.crc32(data)
