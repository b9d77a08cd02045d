"""`oaa store diff`: identity is the name, and every kind of difference counts."""

import numpy as np
import pytest

from dist_oaa.store.codec import ChangedRows
from dist_oaa.store.compare import compare, diff
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.writer import StoreWriter, prepare_store
from store_builders import NAMES, make_manifest, random_rows


def write(folder, manifest, contents: dict) -> str:
    """A store in which pairs (image, class name) have content (map, last, accepted, fallback)."""
    prepare_store(folder, manifest, resume=False)
    for shard in range(manifest.shards):
        pairs = [(n, manifest.class_names[c]) for n, c in manifest.pairs_of_shard(shard)]
        rows = np.array([row for row, pair in enumerate(pairs) if pair in contents], np.int64)
        columns = [[contents[pairs[row]][k] for row in rows] for k in range(4)]
        shape = (len(rows), manifest.map_size, manifest.map_size)
        maps = [np.array(c, manifest.dtype).reshape(shape) for c in columns[:2]]
        counts, flags = np.array(columns[2], np.int32), np.array(columns[3], bool)
        writer = StoreWriter(folder, manifest, shard, manifest.shards, 0)
        writer.commit(1, ChangedRows(rows, np.stack(maps, 1), counts, flags))
        writer.close()
    return str(folder)


def random_contents(manifest, seed=0) -> dict:
    pairs = [p for s in range(manifest.shards) for p in manifest.pairs_of_shard(s)]
    rows = random_rows(manifest, np.arange(len(pairs)), seed)
    columns = (rows.maps_K2SS[:, 0], rows.maps_K2SS[:, 1], rows.accepted_K, rows.fallback_K)
    named = ((n, manifest.class_names[c]) for n, c in pairs)
    return dict(zip(named, zip(*columns, strict=True), strict=True))


@pytest.fixture
def manifest():
    return make_manifest(9)


def test_shards_and_orders_do_not_count(tmp_path, manifest, capsys):
    contents = random_contents(manifest)
    a = write(tmp_path / "a", manifest, contents)
    turned = {n: tuple(sorted(2 - c for c in classes)) for n, classes in zip(
        manifest.image_ids, manifest.classes, strict=True)}  # fmt: skip
    other = make_manifest(turned, shards=5, class_names=NAMES[::-1])
    b = write(tmp_path / "b", other, contents)
    for one, two in ((a, b), (b, a), (a, a)):
        assert diff(one, two) == 0
    said = capsys.readouterr().out
    assert "shards: 3 and 5" in said
    assert "the same names in another order" in said
    assert "18 pairs compared: identical" in said
    c = write(tmp_path / "c", make_manifest(9), contents)
    assert diff(a, c) == 0


@pytest.mark.parametrize("shards", [3, 4])
def test_differences_of_maps(tmp_path, manifest, shards, capsys):
    contents = {p: (m // 2, a // 2, n, f) for p, (m, a, n, f) in random_contents(manifest).items()}
    a = write(tmp_path / "a", manifest, contents)
    changed = dict(contents)
    pairs = sorted(contents)
    for k, pair in enumerate(pairs[:12]):
        map_SS, last_SS, accepted, fallback = contents[pair]
        map_SS = map_SS.copy()
        map_SS[1, 2] += 10 + k
        changed[pair] = map_SS, last_SS, accepted, fallback
    map_SS, last_SS, accepted, fallback = contents[pairs[15]]
    changed[pairs[15]] = map_SS, last_SS + 100, accepted ^ 1, fallback
    changed[pairs[16]] = *contents[pairs[16]][:3], not contents[pairs[16]][3]
    b = write(tmp_path / "b", make_manifest(9, shards=shards), changed)
    found = compare(StoreReader(tmp_path / "a"), StoreReader(tmp_path / "b"))
    assert (found.compared, found.maps.pairs, found.attention.pairs) == (18, 12, 1)
    assert (found.accepted, found.fallback, found.only, found.unmatched) == (1, 1, (0, 0), 0)
    assert found.maps.largest == pytest.approx(21 / 255)
    assert found.maps.mean == pytest.approx(sum(range(10, 22)) / 255 / (18 * 25))
    assert found.attention.largest == pytest.approx(100 / 255)
    assert [pair for _, pair in found.worst] == [pairs[15], *pairs[11:2:-1]]
    assert found.worst[1][0] == pytest.approx(21 / 255)
    capsys.readouterr()
    assert diff(a, b) == 1
    said = capsys.readouterr().out
    assert "18 pairs compared: not identical" in said
    assert pairs[11][0] in said
    assert max(map(len, said.splitlines())) <= 80


def test_pairs_of_one_store_only(tmp_path, manifest, capsys):
    contents = random_contents(manifest)
    a = write(tmp_path / "a", manifest, contents)
    fewer = make_manifest(7)
    b = write(tmp_path / "b", fewer, contents)
    without = dict(list(contents.items())[2:])
    c = write(tmp_path / "c", make_manifest(9), without)
    assert diff(a, b) == 1
    assert f"pairs only in {a}: 5; only in {b}: 0" in capsys.readouterr().out
    assert diff(a, c) == 1
    assert "2 pairs have a map in one of them only" in capsys.readouterr().out
    assert diff(b, b) == 0


def test_settings_count(tmp_path, manifest, capsys):
    contents = random_contents(manifest)
    a = write(tmp_path / "a", manifest, contents)
    b = write(tmp_path / "b", make_manifest(9, fusion="average"), contents)
    scaled = {
        p: (m / np.float32(255), last / np.float32(255), n, f)
        for p, (m, last, n, f) in contents.items()
    }
    c = write(tmp_path / "c", make_manifest(9, dtype="float32"), scaled)
    names = (*NAMES, "cow")
    d = write(tmp_path / "d", make_manifest(9, class_names=names), contents)
    small = make_manifest(9, map_size=4)
    e = write(tmp_path / "e", small, random_contents(small))
    sentences = ["fusion: max and average", "dtype: uint8 and float32", "only in one of them: cow"]
    for other, sentence in zip((b, c, d, e), [*sentences, "map_size: 5 and 4"], strict=True):
        assert diff(a, other) == 1
        assert sentence in capsys.readouterr().out
    # Of equal levels, the maps themselves agree whatever their number format.
    found = compare(StoreReader(tmp_path / "a"), StoreReader(tmp_path / "c"))
    assert found.maps.largest < 1e-7
