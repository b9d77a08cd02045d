"""The walk through LMDB's file: LMDB itself is the oracle, page by page."""

import contextlib
import random

import lmdb
import numpy as np
import pytest

from dist_oaa.store.pages import DamagedFileError, PageFile
from dist_oaa.store.tree import TreeReader


def walked(path) -> tuple[dict[bytes, bytes], TreeReader, int]:
    with contextlib.closing(PageFile(path)) as file:
        reader = TreeReader(file)
        entries = reader.entries()
        places = zip(entries.keys_N, entries.at_N, entries.size_N, strict=True)
        return {key: file.read(at, size) for key, at, size in places}, reader, file.missing


@pytest.mark.parametrize("seed", range(6))
def test_any_history_reads_as_lmdb_reads_it(tmp_path, seed):
    """Puts and deletes of small values and of ones with pages of their own, three levels deep."""
    rng = random.Random(seed)
    sizes = [(0, 40), (100, 1900), (2000, 9000)][seed % 3]
    with lmdb.open(str(tmp_path), map_size=1 << 28, lock=False, sync=False) as env:
        for turn in range(12):
            with env.begin(write=True) as txn:
                for _ in range(rng.choice([1, 30, 2500])):
                    key = rng.randrange(6000).to_bytes(4) + b"\0" * rng.randrange(2)
                    if rng.random() < 0.7:
                        txn.put(key, rng.randbytes(rng.randint(*sizes)))
                    else:
                        txn.delete(key)
            with env.begin() as txn:
                expected = {bytes(key): bytes(value) for key, value in txn.cursor()}
            found, reader, missing = walked(tmp_path / "data.mdb")
            assert reader.problems == []
            assert found == expected
            assert list(found) == sorted(expected)
            assert reader.roots.transaction == env.info()["last_txnid"]
            assert reader.roots.last_page == env.info()["last_pgno"]
            assert missing <= 0 or turn  # LMDB may leave out pages at the end
            # Every page is in a tree, in the list of free ones, or one of the first two.
            assert len(reader.pages) == reader.roots.last_page - 1


def test_an_empty_file_of_lmdb(tmp_path):
    lmdb.open(str(tmp_path), lock=False).close()
    found, reader, missing = walked(tmp_path / "data.mdb")
    assert (found, reader.problems, missing) == ({}, [], 0)


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 4200])
def test_a_file_without_its_first_pages(tmp_path, size):
    lmdb.open(str(tmp_path), lock=False).close()
    path = tmp_path / "data.mdb"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DamagedFileError, match="is truncated"):
        PageFile(path)


def filled(folder) -> bytearray:
    """A file with a branch, some leaves and a list of free pages."""
    with lmdb.open(str(folder), lock=False) as env:
        for turn in range(3):
            with env.begin(write=True) as txn:
                for row in range(60):
                    txn.put(row.to_bytes(4) + b"\0", bytes([turn]) * 300)
    return bytearray((folder / "data.mdb").read_bytes())


def test_two_owners_of_a_page_are_noticed(tmp_path):
    """A free page that is in use would be overwritten by the next commit."""
    data = filled(tmp_path)
    path = tmp_path / "data.mdb"
    _, reader, _ = walked(path)
    with contextlib.closing(PageFile(path)) as file:
        free = TreeReader(file).free_entries()
        at, size = free.at_N[0], free.size_N[0]
        pages = np.frombuffer(file.read(at, size), "<u8")
    used = next(n for n, owner in reader.pages.items() if owner == "its tree")
    assert used not in pages[1:]
    data[at + 8 : at + 16] = used.to_bytes(8, "little")
    path.write_bytes(data)
    _, reader, _ = walked(path)
    assert any("belongs to" in text or "out of order" in text for text in reader.problems)
