"""Any flipped bit and any truncation: detected and named, or without effect; and then repaired.

LMDB would end the process on some of these files, so that each example also shows that it is not
given one of them.
"""

import contextlib
import os
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.config.errors import UserError
from dist_oaa.store.codec import decode
from dist_oaa.store.inspect import examine_all
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.repair import repair
from dist_oaa.store.salvage import salvage
from dist_oaa.store.writer import StoreWriter
from store_builders import content, fill, make_manifest, make_store, publish, state

PAGE = 4096
KEPT: list[tempfile.TemporaryDirectory] = []  # removed when the process ends
LAYOUTS = [5, 41]  # records inside the pages of the tree, records in pages of their own


@cache
def intact(size: int) -> tuple[Path, bytes, dict]:
    """A run with one shard after eight commits: its store, the shard's file and what it holds."""
    KEPT.append(tempfile.TemporaryDirectory())
    store = Path(KEPT[-1].name) / "run/store"
    make_store(store, manifest=make_manifest(20, map_size=size, shards=1))
    rng = np.random.default_rng(0)
    for generation in range(1, 8):
        writer = StoreWriter(store, StoreReader(store).manifest, 0, 1, generation)
        rows = np.flatnonzero(rng.random(writer.rows) < rng.choice([0.3, 1.0]))
        fill(writer, generation + 1, generation, rows)
        writer.close()
    publish(store, 8)
    return store, (store / "shard-0000/data.mdb").read_bytes(), state(store)


def damage(kind: str, data: bytes, share: float, within: float, bit: int) -> bytes:
    """The file with one fault; structure is hit as often as maps are."""
    broken = bytearray(data)
    if kind == "truncated":
        return data[: int(share * len(data))]
    at = int(share * len(data))
    if kind == "page header":
        at = at // PAGE * PAGE + int(within * 64)
    elif kind == "first pages":
        at = int(share + 0.5) * PAGE + int(within * 160)
    broken[at] ^= 1 << bit
    return bytes(broken)


faults = st.tuples(
    st.sampled_from(["bit", "page header", "first pages", "truncated"]),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 7),
)


@pytest.mark.parametrize("size", LAYOUTS)
@settings(max_examples=250, deadline=None)
@given(fault=faults)
def test_never_a_silently_wrong_map(size, fault):
    store, data, expected = intact(size)
    kind, *place = fault
    (store / "shard-0000/data.mdb").write_bytes(damage(kind, data, *place))
    _, (report,) = examine_all(StoreReader(store))
    if report.faults:
        with pytest.raises(UserError, match="shard-0000"):
            state(store)
    else:
        assert state(store) == expected
        # What a writer does next is sound as well: it reads the list of free pages.
        with contextlib.closing(StoreWriter(store, StoreReader(store).manifest, 0, 1, 8)) as writer:
            fill(writer, 9, seed=1)
        assert state(store) == expected


@pytest.mark.parametrize("size", LAYOUTS)
@settings(max_examples=60, deadline=None)
@given(fault=faults)
def test_repair_tells_the_truth(size, fault):
    """Restored bit for bit; or what differs is exactly what was named, and nothing is invented."""
    store, data, expected = intact(size)
    path = store / "shard-0000/data.mdb"
    kind, *place = fault
    broken = damage(kind, data, *place)
    path.write_bytes(broken)
    for kept in path.parent.glob("*.damaged*"):
        kept.unlink()
    _, (report,) = examine_all(StoreReader(store))
    code = repair(str(store))
    _, (left,) = examine_all(StoreReader(store))
    assert not left.faults
    found = state(store)
    if code == 0:
        assert found == expected
    if kind == "first pages":
        assert code == 0  # every record is there
    elif kind != "truncated":
        different = [pair for pair in expected if found.get(pair) != expected[pair]]
        assert len(different) == code  # one bit is at most one map
    if report.faults:
        assert (path.parent / "data.mdb.damaged").read_bytes() == broken
        assert sorted(p.name for p in path.parent.iterdir()) == ["data.mdb", "data.mdb.damaged"]
    history = all_records(size)
    for pair, bits in found.items():
        assert bits == expected.get(pair) or bits in history[pair]


@cache
def all_records(size: int) -> dict:
    """Everything that each pair ever held, as two copies of the file still have it."""
    store, data, expected = intact(size)
    copy = store.parent / "copy.mdb"
    copy.write_bytes(data)
    manifest = StoreReader(store).manifest
    pairs = manifest.pairs_of_shard(0)
    record_bytes = 28 + 2 * size * size
    found = salvage(copy, len(pairs), record_bytes)
    os.unlink(copy)
    history = {pair: [] for pair in expected}
    for row, records in found.records.items():
        for data in records.values():
            record = decode(data, size, np.dtype("uint8"))
            history[pairs[row]].append(content(record))
    return history
