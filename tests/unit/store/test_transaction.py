"""What a commit writes: rows that are moved, and a file that stays in one piece."""

import contextlib

import numpy as np
import pytest

from dist_oaa.config.errors import UserError
from dist_oaa.store.codec import ChangedRows
from dist_oaa.store.shard import Shard
from dist_oaa.store.transaction import plan_commit
from store_builders import content, contents, flip

SIZE = 41  # such records lie in pages of their own
PAGE = 4096


def open_shard(folder, generation, rows, writable=True):
    return contextlib.closing(Shard(folder, 0, "id", rows, SIZE, "uint8", generation, writable))


def changed(generation, rows) -> ChangedRows:
    rng = np.random.default_rng(generation)
    maps = rng.integers(0, 256, (len(rows), 2, SIZE, SIZE), dtype=np.uint8)
    rows = np.array(rows, np.int64)
    return ChangedRows(rows, maps, np.full(len(rows), generation, np.int32), rows % 2 == 1)


def found(shard) -> dict:
    return {record.row: content(record) for record in shard.read()}


def generations(shard) -> list[int]:
    return [record.generation for record in shard.read()]


# --- What is moved -------------------------------------------------------------------------


def plan(slots, generation, rows, own_pages=True):
    slots_R2 = np.array(slots)
    return plan_commit(slots_R2, generation, changed(generation, rows), own_pages)


SLOTS = [[1, 2], [3, 2], [-1, -1], [1, -1], [3, 1]]


def test_slots_by_hand():
    made = plan(SLOTS, 4, [0, 2, 3])
    # The slot beside the newest record; an empty row begins with slot 0.
    assert made.target_R.tolist() == [0, 1, 0, 1, 1]
    assert made.old_R.tolist() == [True, True, False, False, True]
    assert made.moved_L.tolist() == [1, 4]
    assert made.written.tolist() == [0, 2, 3, 1, 4]


@pytest.mark.parametrize(
    ("rows", "own_pages", "moved"),
    [
        ([0, 1], True, [3, 4]),
        ([0], True, []),  # more would be moved than has changed
        ([], True, []),
        ([0, 1, 2, 3, 4], True, []),
        ([0, 1], False, []),  # small records share pages whatever is done
    ],
)
def test_what_is_moved(rows, own_pages, moved):
    assert plan(SLOTS, 4, rows, own_pages).moved_L.tolist() == moved


def test_a_repeated_commit_moves_nothing_twice():
    made = plan([[3, 4], [4, 3], [3, 2], [3, 2]], 4, [0, 2])
    assert made.target_R[:3].tolist() == [1, 0, 1]
    assert made.moved_L.tolist() == [3]


def test_moved_rows_keep_what_they_hold(tmp_path):
    first, second = changed(1, range(300)), changed(2, range(0, 300, 2))
    with open_shard(tmp_path, 0, 300) as shard:
        shard.commit(1, first)
        written = shard.commit(2, second)
        assert written == 300 * (28 + 2 * SIZE**2)
        assert found(shard) == contents(first) | contents(second)
        assert generations(shard) == [2] * 300
    # Killed here: generation 2 was never published.
    with open_shard(tmp_path, 1, 300, writable=False) as shard:
        assert found(shard) == contents(first)
    with open_shard(tmp_path, 1, 300) as shard:
        assert found(shard) == contents(first)
        shard.commit(2, changed(2, range(200)))
        shard.commit(3, changed(3, [299]))
        expected = contents(first) | contents(changed(2, range(200))) | contents(changed(3, [299]))
        assert found(shard) == expected
    with open_shard(tmp_path, 3, 300, writable=False) as shard:
        assert found(shard) == expected
        assert generations(shard) == [2] * 299 + [3]


def test_a_damaged_row_is_not_moved(tmp_path):
    first = changed(1, range(40))
    with open_shard(tmp_path, 0, 40) as shard:
        shard.commit(1, first)
        header = (1).to_bytes(8, "little") + (33).to_bytes(4, "little") + (1).to_bytes(4, "little")
        flip(tmp_path / "data.mdb", header)
        with pytest.raises(UserError, match="row 33 is damaged"):
            shard.commit(2, changed(2, range(30)))
        assert shard.committed == 1
        # Rows that have changed are not read.
        shard.commit(2, changed(2, range(40)))
        assert found(shard) == contents(changed(2, range(40)))


# --- The file ------------------------------------------------------------------------------


def pieces(before: bytes, after: bytes) -> int:
    """Runs of neighbouring pages that differ: what a disk has to write one after another."""
    pages = -(-len(after) // PAGE)
    before = before.ljust(pages * PAGE, b"\0")
    old, new = (np.frombuffer(d, np.uint8).reshape(pages, PAGE) for d in (before, after))
    differs = (old != new).any(axis=1).astype(int)
    return int((np.diff(differs, prepend=0) > 0).sum())


@pytest.mark.parametrize("share", [1.0, 0.95, 0.6])
def test_a_commit_of_most_rows_stays_in_few_pieces(tmp_path, share):
    rows, path = 600, tmp_path / "data.mdb"
    rng = np.random.default_rng(0)
    count, lengths = [], []
    with open_shard(tmp_path, 0, rows) as shard:
        shard.commit(1, changed(1, range(rows)))
        for generation in range(2, 26):
            before = path.read_bytes()
            chosen = np.sort(rng.permutation(rows)[: int(share * rows)])
            shard.commit(generation, changed(generation, chosen))
            after = path.read_bytes()
            count.append(pieces(before, after))
            lengths.append(len(after))
    print(f"share {share}: {count} pieces")
    # 80 to 360 pieces at the end if the tree were not copied first and no row were moved.
    assert max(count[-6:]) < 40
    assert lengths[-1] == lengths[5]
    assert lengths[-1] < 5.5 * rows * PAGE


def test_few_rows_are_written_alone(tmp_path):
    with open_shard(tmp_path, 0, 300) as shard:
        shard.commit(1, changed(1, range(300)))
        assert shard.commit(2, changed(2, range(0, 300, 3))) == 100 * (28 + 2 * SIZE**2)
        assert sorted(generations(shard)) == [1] * 200 + [2] * 100
