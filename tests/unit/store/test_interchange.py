"""Export: files, tables and names."""

import csv

import numpy as np
import pytest
from PIL import Image

from dist_oaa.config.errors import UserError
from dist_oaa.store.interchange import export_store
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.writer import StoreWriter, prepare_store
from store_builders import NAMES, make_manifest, make_store, random_rows, state


def table(folder) -> list[dict]:
    with open(folder / "pairs.csv", newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_pair_is_one_file(tmp_path, capsys):
    manifest = make_manifest({"b": (0, 2), "sub/a": (1,), "sub/deep/c_1": (0,)})
    bits = make_store(tmp_path / "store", manifest=manifest)
    assert export_store(str(tmp_path / "store"), str(tmp_path / "out")) == 0
    files = sorted(str(p.relative_to(tmp_path / "out")) for p in tmp_path.glob("out/**/*.png"))
    assert files == ["b_0.png", "b_2.png", "sub/a_1.png", "sub/deep/c_1_0.png"]
    assert (tmp_path / "out/classes.txt").read_text() == "cat\ndog\ndining_table\n"
    rows = table(tmp_path / "out")
    assert [row["file"] for row in rows] == files
    for row in rows:
        pair = (row["image_id"], NAMES.index(row["class"]))
        map_SS, _, accepted, fallback = bits[pair]
        with Image.open(tmp_path / "out" / row["file"]) as picture:
            assert (picture.mode, picture.size) == ("L", (5, 5))
            assert np.asarray(picture).tobytes() == map_SS
        assert (int(row["accepted"]), row["fallback"]) == (accepted, str(int(fallback)))
    assert "4 files of 5 x 5 cells" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_npy_of_the_attention_with_names(tmp_path, dtype, capsys):
    bits = make_store(tmp_path / "store", manifest=make_manifest(dtype=dtype))
    export_store(str(tmp_path / "store"), str(tmp_path / "out"), "npy", "attention", "name")
    for row in table(tmp_path / "out"):
        assert row["file"] == f"{row['image_id']}_{row['class']}.npy"
        array = np.load(tmp_path / "out" / row["file"], allow_pickle=False)
        assert array.dtype == dtype
        assert array.tobytes() == bits[row["image_id"], NAMES.index(row["class"])][1]
    assert "quantised" not in capsys.readouterr().out


def test_float_as_png_is_quantised_and_said(tmp_path, capsys):
    bits = make_store(tmp_path / "store", manifest=make_manifest(dtype="float32"))
    export_store(str(tmp_path / "store"), str(tmp_path / "out"))
    assert "float32 values were quantised: round(255 a)" in capsys.readouterr().out
    values = np.frombuffer(bits["i00", 0][0], np.float32).reshape(5, 5)
    with Image.open(tmp_path / "out/i00_0.png") as picture:
        assert np.asarray(picture).tolist() == [[round(255 * float(v)) for v in r] for r in values]


def test_pairs_without_a_map_are_listed(tmp_path, capsys):
    manifest = make_manifest()
    prepare_store(tmp_path / "store", manifest, resume=False)
    writer = StoreWriter(tmp_path / "store", manifest, 0, 1, 0)
    writer.commit(1, random_rows(manifest, np.array([0, 5]), seed=0))
    writer.close()
    export_store(str(tmp_path / "store"), str(tmp_path / "out"))
    rows = table(tmp_path / "out")
    assert len(rows) == manifest.pairs == 13
    assert sum(row["file"] == "" for row in rows) == 11
    assert {(r["image_id"], NAMES.index(r["class"])) for r in rows if r["file"]} == set(
        state(tmp_path / "store")
    )
    assert "2 files of 5 x 5 cells are in" in (said := capsys.readouterr().out)
    assert "11 pairs have no map" in said


def test_refusals_leave_nothing(tmp_path):
    names = ("cat", "dog", "a/b")
    manifest = make_manifest({"i": (0,)}, class_names=names)
    make_store(tmp_path / "store", manifest=manifest)
    with pytest.raises(UserError, match=r"class name 'a/b' .*use --naming index"):
        export_store(str(tmp_path / "store"), str(tmp_path / "out"), naming="name")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("")
    with pytest.raises(UserError, match="full exists, expected a new or empty folder"):
        export_store(str(tmp_path / "store"), str(tmp_path / "full"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "store"]


@pytest.mark.parametrize(
    ("images", "names", "naming"),
    [
        ({"a": (0,), "a_b": (1,)}, ("b_c", "c"), "name"),
        ({"a/x": (0,), "a//x": (0,)}, ("b", "c"), "index"),
    ],
)
def test_two_pairs_of_one_file_name(tmp_path, images, names, naming):
    manifest = make_manifest(images, class_names=names)
    make_store(tmp_path / "store", manifest=manifest)
    with pytest.raises(UserError, match="would both be written as"):
        export_store(str(tmp_path / "store"), str(tmp_path / "out"), naming=naming)
    assert not (tmp_path / "out").exists()


def test_damage_stops_the_export_and_leaves_nothing(tmp_path):
    make_store(tmp_path / "store")
    reader = StoreReader(tmp_path / "store")
    last = reader.folder / "shard-0002/data.mdb"
    last.write_bytes(last.read_bytes()[:9000])
    with pytest.raises(UserError, match="shard-0002"):
        export_store(str(tmp_path / "store"), str(tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["store"]
