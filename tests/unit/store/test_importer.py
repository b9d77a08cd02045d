"""Import: round trips, the public code's folders, and one clear sentence for each fault."""

import shutil

import numpy as np
import pytest
from PIL import Image

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.fingerprint import labels_fingerprint
from dist_oaa.store.importer import import_folder
from dist_oaa.store.interchange import export_store
from dist_oaa.store.map_folder import parse_name, read_classes
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.writer import StoreWriter, prepare_store
from store_builders import NAMES, make_manifest, make_store, random_rows, state


def write_png(path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """A folder like the public code's: PNGs of several sizes, class indices, and class names."""
    base = tmp_path / "maps"
    write_png(base / "2007_000032_0.png", np.full((5, 5), 7))
    write_png(base / "2007_000032_2.png", np.eye(5) * 255)
    write_png(base / "sub/x_1.png", np.full((3, 9), 90))
    (base / "classes.txt").write_text("cat\ndog\n\ndining_table\n")
    return base


def load(folder, out, **options) -> dict:
    assert import_folder(str(folder), str(out), **{"map_size": 5, "shards": 2} | options) == 0
    return state(out)


@pytest.mark.parametrize("naming", ["index", "name"])
@pytest.mark.parametrize(
    ("dtype", "format"),
    [("uint8", "png"), ("uint8", "npy"), ("float16", "npy"), ("float32", "npy")],
)
def test_round_trip(tmp_path, dtype, format, naming):
    manifest = make_manifest({"b": (0, 2), "s/a_1": (1,), 's/ü, "c"': (0, 1, 2)}, dtype=dtype)
    bits = make_store(tmp_path / "store", manifest=manifest)
    export_store(str(tmp_path / "store"), str(tmp_path / "out"), format, naming=naming)
    back = load(tmp_path / "out", tmp_path / "back", dtype=dtype)
    assert back == {pair: (m, m, n, f) for pair, (m, _, n, f) in bits.items()}
    made = StoreReader(tmp_path / "back")
    assert made.generation == 1
    assert made.manifest.fingerprint == manifest.fingerprint
    assert made.manifest.class_names == NAMES


def test_pairs_without_a_map_survive_the_round_trip(tmp_path):
    manifest = make_manifest()
    prepare_store(tmp_path / "store", manifest, resume=False)
    writer = StoreWriter(tmp_path / "store", manifest, 0, 1, 0)
    writer.commit(1, random_rows(manifest, np.array([0, 5]), seed=0))
    writer.close()
    export_store(str(tmp_path / "store"), str(tmp_path / "out"))
    back = load(tmp_path / "out", tmp_path / "back")
    assert {p: bits[0] for p, bits in back.items()} == {
        p: bits[0] for p, bits in state(tmp_path / "store").items()
    }
    assert StoreReader(tmp_path / "back").manifest.fingerprint == manifest.fingerprint


def test_a_folder_of_the_public_code(tmp_path, folder, capsys):
    found = load(folder, tmp_path / "store")
    level, eye = np.full((5, 5), 7, np.uint8).tobytes(), (np.eye(5, dtype=np.uint8) * 255).tobytes()
    flat = np.full((5, 5), 90, np.uint8).tobytes()
    assert found == {
        ("2007_000032", 0): (level, level, 1, False),
        ("2007_000032", 2): (eye, eye, 1, False),
        ("sub/x", 1): (flat, flat, 1, False),
    }
    said = capsys.readouterr().out
    assert "3 maps of 2 images" in said
    assert "1 of them were resized to 5 x 5 cells" in said
    images = [("sub/x", (1,)), ("2007_000032", (0, 2))]
    fingerprint = labels_fingerprint(NAMES, images)
    assert StoreReader(tmp_path / "store").manifest.fingerprint == fingerprint


def test_classes_from_a_file_and_more_shards_than_images(tmp_path, folder):
    (folder / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"classes\.txt is missing.*--classes"):
        load(folder, tmp_path / "store")
    (tmp_path / "c.txt").write_text("\ufeffx\r\ny\r\nz\r\n", encoding="utf-8")
    load(folder, tmp_path / "store", classes=str(tmp_path / "c.txt"), shards=7)
    manifest = StoreReader(tmp_path / "store").manifest
    assert manifest.class_names == ("x", "y", "z")
    assert manifest.shards == 7


def test_the_store_goes_on_as_any_other(tmp_path, folder):
    found = load(folder, tmp_path / "store")
    manifest = StoreReader(tmp_path / "store").manifest
    writer = StoreWriter(tmp_path / "store", manifest, 0, 1, 1)
    assert sorted(r.map_SS.tobytes() for _, r in writer.read()) == sorted(
        m for m, *_ in found.values()
    )
    writer.close()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("2007_000032_19.png", ("2007_000032", 19)),
        ("a_b_007.npy", ("a_b", 7)),
        ("x_dog.png", ("x", 1)),
        ("x_dining_table.png", ("x", 2)),
        ("a_/b_0.png", ("a_/b", 0)),
        ("a.b_1.png", ("a.b", 1)),
    ],
)
def test_names(tmp_path, name, expected):
    names = (*NAMES, *map(chr, range(97, 114)))
    assert parse_name(tmp_path / name, name, names) == expected


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cat.png", "does not parse, expected ID_CLASS"),
        ("_1.png", "does not parse"),
        ("sub/_1.png", "does not parse"),
        ("x_.png", "does not parse"),
        ("x_3.png", "class index 3 is unknown, expected 0 to 2"),
        ("x_dgo.png", "class 'dgo' is unknown; the nearest of the 3 class names is 'dog'"),
    ],
)
def test_names_that_do_not_parse(tmp_path, folder, name, sentence):
    write_png(folder / name, np.zeros((5, 5)))
    with pytest.raises(UserError, match=sentence) as caught:
        load(folder, tmp_path / "store")
    assert str(folder / name) in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_an_ambiguous_class_name(tmp_path):
    with pytest.raises(UserError, match=r"may be table or dining_table, expected an index"):
        parse_name(tmp_path / "x", "x_dining_table.png", ("table", "dining_table"))


TABLE = "file,image_id,class,accepted,fallback\n"
GOOD = "2007_000032_0.png,a,cat,3,0\n2007_000032_2.png,b,dog,0,1\nsub/x_1.png,c,dog,1,0\n"


def test_a_table_says_more_than_the_names(tmp_path, folder):
    (folder / "pairs.csv").write_text("class,file,image_id\ncat,2007_000032_0.png,a\n")
    for name in ("2007_000032_2.png", "sub/x_1.png"):
        (folder / name).unlink()
    assert [(p, b[2:]) for p, b in load(folder, tmp_path / "1").items()] == [(("a", 0), (1, False))]
    shutil.rmtree(folder)
    folder.mkdir()
    for name in ("2007_000032_0.png", "2007_000032_2.png", "sub/x_1.png"):
        write_png(folder / name, np.zeros((5, 5)))
    (folder / "classes.txt").write_text("cat\ndog\n")
    (folder / "pairs.csv").write_text(TABLE + GOOD)
    counts = {pair: bits[2:] for pair, bits in load(folder, tmp_path / "2").items()}
    assert counts == {("a", 0): (3, False), ("b", 1): (0, True), ("c", 1): (1, False)}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("../secret.png,d,cat,1,0", r"line 5: '\.\./secret\.png' leads out of"),
        ("sub/../../secret.png,d,cat,1,0", "line 5: .* leads out of"),
        ("/etc/passwd,d,cat,1,0", "line 5: '/etc/passwd' leads out of"),
        ("link.png,d,cat,1,0", r"line 5: 'link\.png' leads out of"),
        ("none.png,d,cat,1,0", r"line 5: none\.png is no map"),
        ("classes.txt,d,cat,1,0", r"line 5: classes\.txt is no map"),
        ("sub/x_1.png,../d,cat,1,0", r"line 5: the image name '\.\./d' cannot be kept"),
        ("sub/x_1.png,/d,cat,1,0", "line 5: the image name '/d' cannot be kept"),
        ("sub/x_1.png,d,catt,1,0", "line 5: the class 'catt' is unknown; .* is 'cat'"),
        ("sub/x_1.png,d,cat,-1,0", "line 5: accepted is '-1', expected a count"),
        ("sub/x_1.png,d,cat,1,yes", "line 5: fallback is 'yes', expected a count"),
        ("sub/x_1.png,a,cat,1,0", "line 5 and .*line 2 are both of image 'a' and class 'cat'"),
        ("sub/x_1.png,a,cat", "line 5: another number of cells"),
        ('sub/x_1.png,"a', "pairs.csv cannot be read"),
    ],
)
def test_faulty_tables(tmp_path, folder, row, sentence):
    write_png(tmp_path / "secret.png", np.zeros((5, 5)))
    if row.startswith("link"):
        (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "pairs.csv").write_text(TABLE + GOOD + row + "\n")
    with pytest.raises(UserError, match=sentence):
        load(folder, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_tables_and_files_must_agree(tmp_path, folder):
    (folder / "pairs.csv").write_text(TABLE + GOOD.splitlines()[0] + "\n")
    with pytest.raises(UserError, match=r"2007_000032_2\.png is not in pairs\.csv"):
        load(folder, tmp_path / "store")
    (folder / "pairs.csv").write_text("file,class\n")
    with pytest.raises(UserError, match="no column 'image_id' in its first line"):
        load(folder, tmp_path / "store")


def test_links_and_duplicates_among_the_files(tmp_path, folder):
    write_png(folder / "sub/x_01.png", np.zeros((5, 5)))
    with pytest.raises(UserError, match=r"x_1\.png and .*x_01\.png are both of image 'sub/x'"):
        load(folder, tmp_path / "store")
    (folder / "sub/x_01.png").unlink()
    write_png(tmp_path / "secret.png", np.zeros((5, 5)))
    (folder / "y_1.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match=r"'y_1\.png' leads out of"):
        load(folder, tmp_path / "store")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"map_size": 0}, "--map_size is 0 cells"),
        ({"shards": 0}, "--shards is 0, expected"),
        ({"fusion": "average"}, "--dtype is uint8, expected float32"),
    ],
)
def test_options(tmp_path, folder, options, sentence):
    with pytest.raises(UserError, match=sentence):
        load(folder, tmp_path / "store", **options)


def test_nothing_to_import(tmp_path, folder):
    with pytest.raises(UserError, match="is no folder"):
        load(tmp_path / "none", tmp_path / "store")
    for path in folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match="holds no maps"):
        load(folder, tmp_path / "store")
    write_png(folder / "a_0.png", np.zeros((5, 5)))
    (tmp_path / "store").mkdir()
    (tmp_path / "store/x").write_text("")
    with pytest.raises(UserError, match="store exists, expected a new or empty folder"):
        load(folder, tmp_path / "store")


def test_a_corrupt_map_leaves_no_store(tmp_path, folder):
    (folder / "a_0.png").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"a_0\.png is damaged"):
        load(folder, tmp_path / "store")
    assert [p.name for p in tmp_path.iterdir()] == ["maps"]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "names no class"),
        (b"cat\ndog\ncat\n", "names the class 'cat' twice"),
        (b"\xff\xfe\xff", "cannot be read: it is not UTF-8 text"),
    ],
)
def test_bad_class_files(tmp_path, data, sentence):
    (tmp_path / "c.txt").write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        read_classes(tmp_path / "c.txt")
