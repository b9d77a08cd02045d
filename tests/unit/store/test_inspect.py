"""`oaa store info` and `verify`: what is counted, and that damage of every kind is reported."""

import contextlib
import shutil

import numpy as np
import pytest

from dist_oaa.config.errors import UserError
from dist_oaa.store.codec import ChangedRows
from dist_oaa.store.inspect import disk_size, info, verify
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.writer import StoreWriter, prepare_store
from store_builders import fill, flip, make_manifest, make_store, publish, state


def test_info_counts(tmp_path, capsys):
    folder, manifest = tmp_path / "run/store", make_manifest(6, map_size=41)  # 12 pairs
    prepare_store(folder, manifest, resume=False)
    writer = StoreWriter(folder, manifest, 0, 1, 0)
    maps = np.zeros((4, 2, 41, 41), np.uint8)
    counts, flags = np.array([3, 0, 1, 4]), np.array([False, True, False, False])
    writer.commit(5, ChangedRows(np.array([0, 1, 7, 9]), maps, counts, flags))
    writer.close()
    publish(folder, 5)
    assert info(str(folder.parent)) == 0
    said = capsys.readouterr().out
    lines = {line[:13].strip(): line[15:].strip() for line in said.splitlines()}
    assert lines["maps"] == "41 x 41 cells, uint8, fusion max"
    assert lines["made for"] == "6 images, 12 pairs, 3 classes"
    assert lines["fingerprint"] == manifest.fingerprint[:12]
    assert lines["shards"] == "3"
    assert lines["generation"] == "5 (published)"
    assert lines["with a map"] == "4 (33.3 %)"
    assert lines["accepted"].startswith("3 (25.0 %), at least once; 2.7 times on average")
    assert lines["fallback"].startswith("1 (8.3 %)")
    assert lines["never updated"] == "8 (66.7 %)"
    size = disk_size(folder)
    assert lines["on disk"] == f"{size:,} bytes, {size / (4 * 3390):.1f} x the maps"
    assert max(map(len, said.splitlines())) <= 80


def test_info_of_a_store_that_is_still_empty(tmp_path, capsys):
    make_store(tmp_path / "store", manifest=make_manifest({}))
    assert info(str(tmp_path / "store")) == 0
    assert "0 (0.0 %)" in capsys.readouterr().out


def test_disk_size_counts_blocks_not_holes(tmp_path):
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(50 << 20)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/full").write_bytes(b"x" * 100_000)
    assert 100_000 <= disk_size(tmp_path) < 1 << 20


def test_verify_an_intact_store(tmp_path, capsys):
    make_store(tmp_path / "run/store")
    assert verify(str(tmp_path / "run")) == 0
    assert "13 maps of 13 pairs in 3 shards are intact (generation 1)" in capsys.readouterr().out
    publish(tmp_path / "run/store", 1)
    assert verify(str(tmp_path / "run")) == 0


def damaged(folder, capsys) -> list[str]:
    """The lines that verify prints before it fails."""
    with pytest.raises(UserError, match=r"of the 3 shards of .*store are damaged") as caught:
        verify(str(folder))
    lines = capsys.readouterr().out.splitlines()
    shards = {line.split(":")[0] for line in lines}
    assert str(caught.value).startswith(f"{len(shards)} of the 3 shards")
    assert "oaa store repair" in str(caught.value)
    return lines


def name_of(manifest, pair) -> str:
    return f"{pair[0]} ({manifest.class_names[pair[1]]})"


@pytest.mark.parametrize("in_a_run", [False, True])
def test_everything_that_is_damaged_is_named(tmp_path, capsys, in_a_run):
    folder = tmp_path / "run/store"
    bits = make_store(folder)
    if in_a_run:
        publish(folder, 1)
    manifest = StoreReader(folder).manifest
    pairs = manifest.pairs_of_shard(0)
    for row in (0, 2, 3):
        flip(folder / "shard-0000/data.mdb", bits[pairs[row]][0])
    shutil.rmtree(folder / "shard-0001")
    lines = damaged(folder, capsys)
    assert lines == [
        *(
            f"shard-0000: {name_of(manifest, pairs[row])}: checksum of the maps does not match"
            for row in (0, 2, 3)
        ),
        "shard-0001: No such file or directory",
    ]


def test_a_damaged_header_and_a_truncated_file(tmp_path, capsys):
    folder = tmp_path / "store"
    bits = make_store(folder)
    manifest = StoreReader(folder).manifest
    pair = manifest.pairs_of_shard(1)[2]
    path = folder / "shard-0001/data.mdb"
    data = path.read_bytes()
    at = data.index(bits[pair][0]) - 20  # the row number of the record before it
    path.write_bytes(data[:at] + b"\x55" + data[at + 1 :])
    other = folder / "shard-0002/data.mdb"
    other.write_bytes(other.read_bytes()[:-4096])
    first, *rest = damaged(folder, capsys)
    assert first == (
        f"shard-0001: {name_of(manifest, pair)}: checksum of the header does not match"
    )
    assert rest[0] == "shard-0002: it is truncated: 4,096 bytes are missing"


def test_a_blank_page_is_named_or_free(tmp_path, capfd):
    """LMDB would end the process on some blank pages of its tree."""
    folder = tmp_path / "store"
    before = make_store(folder, manifest=make_manifest(150))
    path = folder / "shard-0001/data.mdb"
    data = path.read_bytes()
    reported = 0
    for page in range(0, len(data), 4096):
        path.write_bytes(data[:page] + bytes(4096) + data[page + 4096 :])
        with contextlib.suppress(UserError):
            verify(str(folder))
        said = capfd.readouterr().out
        assert said.startswith("shard-0001: ") or "are intact" in said
        if "are intact" in said:
            assert state(folder) == before
        reported += said.startswith("shard-0001: ")
    assert reported >= 0.7 * len(data) / 4096


def test_verify_looks_at_what_is_published(tmp_path, capsys):
    folder = tmp_path / "run/store"
    before = make_store(folder)
    publish(folder, 1)
    writer = StoreWriter(folder, StoreReader(folder).manifest, 0, 1, 1)
    newer = fill(writer, 2, seed=2)
    writer.close()
    flip(folder / "shard-0000/data.mdb", newer[0][0])
    assert verify(str(folder)) == 0
    assert state(folder) == before
    publish(folder, 2)
    capsys.readouterr()
    assert len(damaged(folder, capsys)) == 1


def test_a_damaged_table(tmp_path):
    make_store(tmp_path / "store")
    (tmp_path / "store/images.tsv").write_text("i00\t0\n")
    with pytest.raises(UserError, match=r"images\.tsv does not match the checksum"):
        verify(str(tmp_path / "store"))
