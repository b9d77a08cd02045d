"""The reading of a shard that docs/store.md shows, against our own reader."""

import numpy as np

from dist_oaa.store.codec import ChangedRows
from dist_oaa.store.manifest import Manifest
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.writer import StoreWriter, prepare_store
from documents import blocks_of
from processes import REPOSITORY


def test_the_shown_code_reads_the_live_maps(tmp_path, monkeypatch):
    manifest = Manifest(5, "uint8", "max", 1, ("a", "b"), "f", ("i", "j"), ((0,), (0, 1)))
    folder = tmp_path / "store"
    writer = StoreWriter(folder, prepare_store(folder, manifest, resume=False), 0, 1, 0)
    maps = np.random.default_rng(1).integers(0, 256, (3, 2, 5, 5), dtype=np.uint8)
    for generation, rows in ((1, [0, 1, 2]), (2, [1])):
        content = maps[rows] // generation
        count = len(rows)
        changed = ChangedRows(
            np.array(rows), content, np.full(count, generation, np.int32), np.zeros(count, bool)
        )
        writer.commit(generation, changed)
    writer.close()
    expected = {
        (name, c): (record.accepted, record.map_SS.tolist())
        for name, c, record in StoreReader(folder).records()
    }
    (block,) = (b for b in blocks_of(REPOSITORY / "docs/store.md") if b.language == "python")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block.text, names)
    pairs = manifest.pairs_of_shard(0)
    found = {pairs[row]: (count, m.tolist()) for row, (_, count, m) in names["records"].items()}
    assert found == expected
    assert [generation for generation, *_ in names["records"].values()] == [1, 2, 1]
