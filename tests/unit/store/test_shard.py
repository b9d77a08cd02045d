"""One shard: two generations, what a crash leaves, damage, and its size on disk."""

import contextlib
import os
import random
import shutil
import zlib

import lmdb
import numpy as np
import pytest

from dist_oaa.config.errors import UserError
from dist_oaa.store.bulk import RecordBuffer
from dist_oaa.store.codec import ChangedRows, Record, encode
from dist_oaa.store.shard import Shard
from dist_oaa.store.stamp import STAMP, Stamp
from store_builders import content, contents, flip

SIZE = 5


def open_shard(folder, generation, writable=True, rows=10, size=SIZE, dtype="uint8", index=0):
    return contextlib.closing(
        Shard(folder, index, "id", rows, size, dtype, generation, writable=writable)
    )


def changed(generation, rows, size=SIZE, dtype="uint8") -> ChangedRows:
    """Content that tells generation and row."""
    rng = np.random.default_rng(generation)
    maps = (255 * rng.random((len(rows), 2, size, size))).astype(dtype)
    rows = np.array(rows, np.int64)
    return ChangedRows(rows, maps, np.full(len(rows), generation, np.int32), rows % 2 == 1)


def found(records) -> dict:
    return {record.row: content(record) for record in records}


def read(folder, generation, **layout) -> dict:
    with open_shard(folder, generation, writable=False, **layout) as shard:
        return found(shard.read())


def test_an_unpublished_commit_leaves_the_published_state(tmp_path):
    first, second, third = changed(1, range(10)), changed(2, [1, 4, 9]), changed(2, [0, 4])
    with open_shard(tmp_path, 0) as shard:
        assert found(shard.read()) == {}
        assert shard.commit(1, first) == 10 * (28 + 2 * SIZE**2)
        shard.commit(2, second)
        assert found(shard.read()) == contents(first) | contents(second)
    # Killed here: generation 2 was never published.
    assert read(tmp_path, 1) == contents(first)
    assert read(tmp_path, 2) == contents(first) | contents(second)
    with open_shard(tmp_path, 1) as shard:
        assert found(shard.read()) == contents(first)
        # The leftovers are gone, and the shard does not claim their generation any more.
        assert shard.committed == 1
        shard.commit(2, third)
    assert read(tmp_path, 1) == contents(first)
    assert read(tmp_path, 2) == contents(first) | contents(third)


def test_a_reader_deletes_nothing(tmp_path):
    with open_shard(tmp_path, 0) as shard:
        shard.commit(1, changed(1, range(4)))
        shard.commit(2, changed(2, range(4)))
    before = (tmp_path / "data.mdb").read_bytes()
    read(tmp_path, 1)
    assert (tmp_path / "data.mdb").read_bytes() == before


def test_a_repeated_commit_spares_the_published_generation(tmp_path):
    first = changed(1, range(10))
    with open_shard(tmp_path, 0) as shard:
        shard.commit(1, first)
        # Another shard failed, and the commit of all shards is tried again, twice.
        for rows in (range(10), range(5), range(10)):
            shard.commit(2, changed(2, rows))
    assert read(tmp_path, 1) == contents(first)
    assert read(tmp_path, 2) == contents(changed(2, range(10)))


def test_a_failed_transaction_keeps_nothing(tmp_path, monkeypatch):
    first = changed(1, range(10))

    def failing(self, *arguments):
        yield next(encode_chunks(self, *arguments))
        raise OSError("no space")

    encode_chunks = RecordBuffer.encode
    with open_shard(tmp_path, 0) as shard:
        shard.commit(1, first)
        with monkeypatch.context() as patch:
            patch.setattr(RecordBuffer, "encode", failing)
            with pytest.raises(OSError, match="no space"):
                shard.commit(2, changed(2, range(3)))
        assert found(shard.read()) == contents(first)
        assert shard.committed == 1
        shard.commit(2, changed(2, [7]))
        assert found(shard.read()) == contents(first) | contents(changed(2, [7]))


def test_an_empty_shard(tmp_path):
    with open_shard(tmp_path, 0, rows=0) as shard:
        shard.commit(1, changed(1, []))
    with open_shard(tmp_path, 1, writable=False, rows=0) as shard:
        assert shard.committed == 1
        assert list(shard.read()) == []


def test_a_record_of_41_cells_takes_one_page(tmp_path):
    with open_shard(tmp_path, 0, rows=50, size=41) as shard:
        shard.commit(1, changed(1, range(50), size=41))
    with lmdb.open(str(tmp_path), readonly=True, lock=False) as env:
        assert env.stat()["psize"] == 4096
        assert env.stat()["overflow_pages"] == 50
        assert env.stat()["entries"] == 51  # the generation of the shard is the other one


@pytest.mark.parametrize(("dtype", "size"), [("uint8", 41), ("float32", 41), ("uint8", 7)])
def test_the_file_does_not_grow_without_bound(tmp_path, dtype, size):
    rows = 40
    rng = np.random.default_rng(0)
    lengths = []
    with open_shard(tmp_path, 0, rows=rows, size=size, dtype=dtype) as shard:
        for generation in range(1, 51):
            chosen = range(rows)
            if generation % 3 == 0:
                chosen = sorted(rng.choice(rows, rows // 3, replace=False).tolist())
            payload = shard.commit(generation, changed(generation, chosen, size, dtype))
            lengths.append(os.path.getsize(tmp_path / "data.mdb"))
    full = rows * max(4096, payload / rows)
    factor = (lengths[-1] - 16384) / full  # small files are mostly LMDB's own few pages
    print(f"{dtype} {size}: {factor:.1f} x the pages of one set of records after 50 commits")
    assert lengths[-1] <= 1.1 * lengths[24]
    assert factor < 5.5
    assert read(tmp_path, 50, rows=rows, size=size, dtype=dtype)


def filled(folder, generations=1) -> ChangedRows:
    with open_shard(folder, 0) as shard:
        for generation in range(1, generations + 1):
            written = changed(generation, range(10))
            shard.commit(generation, written)
    return written


def test_a_damaged_map_is_named(tmp_path):
    written = filled(tmp_path)
    flip(tmp_path / "data.mdb", written.maps_K2SS[6, 0].tobytes())
    with pytest.raises(UserError, match=r"row 6 is damaged: checksum of the maps"):
        read(tmp_path, 1)


@pytest.mark.parametrize("writable", [False, True])
def test_a_damaged_generation_never_passes_for_another_one(tmp_path, writable):
    # Both ways would lose an update in silence: read as unpublished, or as the older slot.
    filled(tmp_path, generations=2)
    path = tmp_path / "data.mdb"
    data = path.read_bytes()
    head = (2).to_bytes(8, "little") + (6).to_bytes(4, "little") + (2).to_bytes(4, "little")
    assert data.count(head) == 1
    for byte in (b"\x00", b"\x09"):
        path.write_bytes(data.replace(head, byte + head[1:]))
        with pytest.raises(UserError, match="row 6 is damaged: checksum of the header"):
            open_shard(tmp_path, 2, writable=writable)


def test_a_misplaced_record_is_noticed(tmp_path):
    filled(tmp_path)
    with lmdb.open(str(tmp_path), lock=False) as env, env.begin(write=True) as txn:
        txn.put(bytes([0, 0, 0, 3, 0]), txn.get(bytes([0, 0, 0, 4, 0])))
    with pytest.raises(UserError, match="row 3 is damaged: it says it is row 4"):
        open_shard(tmp_path, 1, writable=False)


@pytest.mark.parametrize("key", [[0, 0, 0, 10, 0], [0, 0, 0, 3, 2]])
def test_a_row_outside_the_shard_is_noticed(tmp_path, key):
    filled(tmp_path)
    with lmdb.open(str(tmp_path), lock=False) as env, env.begin(write=True) as txn:
        txn.put(bytes(key), txn.get(bytes([0, 0, 0, 4, 0])))
    with pytest.raises(UserError, match="expected 10 rows with 2 slots"):
        open_shard(tmp_path, 1, writable=False)


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_a_truncated_file(tmp_path, share, writable):
    rows = 100
    with open_shard(tmp_path, 0, rows=rows, size=41) as shard:
        shard.commit(1, changed(1, range(rows), size=41))
    path = tmp_path / "data.mdb"
    os.truncate(path, int(share * path.stat().st_size))
    # The owner takes a few missing pages for ones that were never written, and then finds zeros.
    with pytest.raises(UserError, match=r"is truncated: .* are missing|row \d+ is damaged"):
        open_shard(tmp_path, 1, writable, rows=rows, size=41)


def stamp_of(alive: dict[int, Record], transaction: int, rows: int = 400) -> Stamp:
    """The stamp of a shard that holds these records in its first slots."""
    heads = [encode(alive[row])[24:28] if row in alive else bytes(4) for row in range(rows)]
    total = zlib.crc32(b"".join(heads))
    return Stamp("id", 0, transaction, 1, total, 1, total)


def short_file(folder, seed: int) -> list[Record]:
    """Random puts and deletes by LMDB itself, until it leaves the end of the file unwritten."""
    rng = random.Random(seed)
    alive = {}
    with lmdb.open(str(folder), lock=False, sync=False, map_size=1 << 28) as env:
        for turn in range(8):
            with env.begin(write=True) as txn:
                for row in rng.sample(range(400), rng.randint(1, 200 + 200 * (turn % 2))):
                    if turn % 2 == 0:
                        maps = np.full((2, 15, 15), rng.randrange(256), np.uint8)
                        alive[row] = Record(1, row, 1, False, *maps)
                        txn.put(row.to_bytes(4) + b"\0", encode(alive[row]))
                    elif alive.pop(row, None):
                        txn.delete(row.to_bytes(4) + b"\0")
                txn.put(STAMP, stamp_of(alive, txn.id()).encode())
            if (folder / "data.mdb").stat().st_size < 4096 * (env.info()["last_pgno"] + 1):
                return list(alive.values())
    return []


def test_pages_that_lmdb_never_wrote_are_no_truncation(tmp_path):
    """A process killed between a commit and the padding of the file may leave it short."""
    seeds = (seed for seed in range(40) if short_file(tmp_path / str(seed), seed))
    seed = next(seeds, None)
    if seed is None:
        pytest.skip("this LMDB writes every page")
    written = short_file(tmp_path / "again", seed)
    with pytest.raises(UserError, match="bytes are missing"):
        read(tmp_path / "again", 1, rows=400, size=15)
    with open_shard(tmp_path / "again", 1, rows=400, size=15) as shard:
        assert found(shard.read()) == found(written)
    # The owner has mended it.
    assert read(tmp_path / "again", 1, rows=400, size=15) == found(written)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"index": 1}, "has shard 0, expected 1: it belongs to another store"),
        ({"generation": 2}, "ends with generation 1, expected 2 like the checkpoint"),
    ],
)
@pytest.mark.parametrize("writable", [False, True])
def test_another_shard_or_an_older_copy(tmp_path, change, sentence, writable):
    filled(tmp_path)
    with pytest.raises(UserError, match=sentence):
        open_shard(tmp_path, **{"generation": 1, "writable": writable} | change)
    # The environment was closed again: LMDB refuses to open one twice in a process.
    assert len(read(tmp_path, 1)) == 10


@pytest.mark.parametrize(("generation", "writable"), [(0, False), (1, False), (1, True)])
def test_a_missing_shard(tmp_path, generation, writable):
    with pytest.raises(UserError, match="gone is missing"):
        open_shard(tmp_path / "gone", generation, writable)
    assert not (tmp_path / "gone").exists()


def test_a_copy_is_whole_or_not_at_all(tmp_path, monkeypatch):
    written = filled(tmp_path / "live")
    with open_shard(tmp_path / "live", 1) as shard:
        shard.copy_to(tmp_path / "shared")
        assert read(tmp_path / "shared", 1) == contents(written)
        shard.commit(2, changed(2, range(10)))

        def full_disk(source, target, length):
            target.write(source.read(100))
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(shutil, "copyfileobj", full_disk)
        with pytest.raises(OSError, match="No space"):
            shard.copy_to(tmp_path / "shared")
    assert [p.name for p in (tmp_path / "shared").iterdir()] == ["data.mdb"]
    assert read(tmp_path / "shared", 1) == contents(written)
