"""LMDB's map grows by itself: nothing is lost, and a reader in another process goes on."""

import contextlib
import multiprocessing

import numpy as np
import pytest

from dist_oaa.config.errors import UserError
from dist_oaa.store import shard as module
from dist_oaa.store.codec import ChangedRows
from dist_oaa.store.shard import Shard
from store_builders import content, contents

ROWS, SIZE = 60, 41
SMALL = 64 << 10  # sixteen pages; one set of records takes sixty


def open_shard(folder, generation, writable=True):
    return contextlib.closing(
        Shard(folder, 0, "id", ROWS, SIZE, "uint8", generation, writable=writable)
    )


def changed(generation, rows=range(ROWS)) -> ChangedRows:
    rng = np.random.default_rng(generation)
    rows = np.array(rows, np.int64)
    maps = rng.integers(0, 256, (len(rows), 2, SIZE, SIZE), dtype=np.uint8)
    return ChangedRows(rows, maps, np.full(len(rows), generation, np.int32), rows % 2 == 1)


def found(shard) -> dict:
    return {record.row: content(record) for record in shard.read()}


@pytest.fixture
def small_map(monkeypatch):
    monkeypatch.setattr(module, "environment_size", lambda *_: SMALL)


def test_a_map_that_is_too_small_grows_and_nothing_is_lost(tmp_path, small_map):
    expected, sizes = {}, []
    with open_shard(tmp_path, 0) as shard:
        for generation in range(1, 25):
            rows = range(ROWS) if generation % 3 else range(0, ROWS, 4)
            shard.commit(generation, changed(generation, rows))
            expected |= contents(changed(generation, rows))
            assert found(shard) == expected
            sizes.append(shard._env.info()["map_size"])
    assert sizes[0] > SMALL
    assert sizes[-1] == sizes[5] <= 16 * ROWS * 2 * 4096  # and then it is large enough
    # The next run begins small again, and finds what is there.
    with open_shard(tmp_path, 24) as shard:
        assert found(shard) == expected
        shard.commit(25, changed(25))
        assert found(shard) == contents(changed(25))


def follow(folder, pipe) -> None:
    """A reader that stays open while another process writes."""
    with open_shard(folder, 1, writable=False) as shard:
        pipe.send("open")
        while pipe.recv() != "end":
            try:
                pipe.send(found(shard))
            except UserError as error:
                pipe.send(str(error))


def test_a_reader_in_another_process_follows_the_growth(tmp_path, small_map):
    """Of each map two commits are kept: one later it reads on, then it is told, never misled."""
    first = changed(1)
    with open_shard(tmp_path, 0) as shard:
        shard.commit(1, first)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=follow, args=(tmp_path, theirs), daemon=True)
    child.start()
    assert ours.poll(20)
    assert ours.recv() == "open"
    answers = []
    with open_shard(tmp_path, 1) as shard:
        for generation in (2, 3, 4):
            shard.commit(generation, changed(generation))
            ours.send("read")
            assert ours.poll(20)
            answers.append(ours.recv())
        ours.send("end")
        child.join(20)
    assert child.exitcode == 0
    assert answers[0] == contents(first)
    assert all("written by a run while it was being read" in text for text in answers[1:])
