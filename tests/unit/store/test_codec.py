"""Records: what goes in comes out, and no damaged byte passes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.store.codec import DamagedRecordError, Record, decode, encode, peek, record_size


def make(dtype="uint8", size=3, generation=7, row=2, accepted=5, fallback=True) -> Record:
    rng = np.random.default_rng(row)
    maps = (255 * rng.random((2, size, size))).astype(dtype)
    return Record(generation, row, accepted, fallback, maps[0], maps[1])


@given(
    st.sampled_from(["uint8", "float16", "float32"]),
    st.integers(1, 6),
    st.integers(0, 2**63),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_round_trip(dtype, size, generation, row, accepted, fallback):
    record = make(dtype, size, generation, row % 1000, accepted, fallback)
    data = encode(record)
    assert len(data) == record_size(size, np.dtype(dtype))
    assert peek(data) == peek(memoryview(data)) == (generation, row % 1000)
    back = decode(data, size, np.dtype(dtype))
    assert (back.generation, back.row, back.accepted) == (generation, row % 1000, accepted)
    assert back.fallback is fallback
    assert back.map_SS.dtype == dtype
    np.testing.assert_array_equal(back.map_SS, record.map_SS)
    np.testing.assert_array_equal(back.last_SS, record.last_SS)


def test_every_flipped_bit_is_noticed():
    data = encode(make())
    for bit in range(8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedRecordError):
            decode(bytes(broken), 3, np.dtype("uint8"))


def test_a_damaged_header_is_noticed_without_the_maps():
    data = encode(make())
    for position in range(28):
        broken = bytearray(data)
        broken[position] ^= 0xFF
        with pytest.raises(DamagedRecordError, match="header"):
            peek(bytes(broken))


@pytest.mark.parametrize("length", [0, 5, 27, 28, 45, 47])
def test_another_length_is_noticed(length):
    data = (encode(make()) + b"more")[:length]
    with pytest.raises(DamagedRecordError):
        decode(data, 3, np.dtype("uint8"))


def test_layout_is_stable():
    record = Record(3, 1, 2, True, np.array([[9]], np.uint8), np.array([[8]], np.uint8))
    # Written down from the description at the top of codec.py, checksums by zlib.crc32.
    assert encode(record).hex() == ("03000000000000000100000002000000010000008421c09e2e08dff20908")
