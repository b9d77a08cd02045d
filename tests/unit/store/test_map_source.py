"""Maps of any form: a store, an export, run directories with either or both."""

import shutil

import numpy as np
import pytest
from PIL import Image

from dist_oaa.config.errors import UserError
from dist_oaa.store.interchange import export_store
from dist_oaa.store.maps import open_maps
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.writer import StoreWriter, prepare_store
from store_builders import NAMES, make_manifest, make_store, publish, random_rows


def content(records) -> dict:
    found = {}
    for name, c, map_SS in records:
        assert (name, c) not in found
        found[name, c] = map_SS
    return found


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for pair, map_SS in one.items():
        assert map_SS.dtype == other[pair].dtype
        assert map_SS.tolist() == other[pair].tolist()


@pytest.fixture
def store(tmp_path):
    """Seven images, fourteen pairs, two of them without a map."""
    manifest = make_manifest()
    folder = tmp_path / "run" / "store"
    prepare_store(folder, manifest, resume=False)
    writer = StoreWriter(folder, manifest, rank=0, world=1, generation=0)
    writer.commit(1, random_rows(manifest, np.setdiff1d(np.arange(writer.rows), [3, 7]), 5))
    writer.close()
    return folder


def test_a_store_and_its_export_hold_the_same(store, tmp_path):
    source = open_maps(store)
    expected = {(n, c): r.map_SS for n, c, r in StoreReader(store).records()}
    assert_same(content(source.records), expected)
    assert_same(content(source.records), expected)  # again from the beginning
    assert len(expected) == make_manifest().pairs - 2
    assert source.pairs == tuple(sorted(expected))
    assert (source.class_names, source.map_size, source.dtype) == (NAMES, 5, "uint8")
    export_store(str(store), str(tmp_path / "out"))
    exported = open_maps(tmp_path / "out")
    assert_same(content(exported.records), expected)
    assert (exported.class_names, exported.map_size, exported.dtype) == (NAMES, 5, "uint8")
    assert exported.pairs == source.pairs


def test_some_images_alone(store, tmp_path):
    export_store(str(store), str(tmp_path / "out"))
    whole = content(open_maps(store).records)
    (tmp_path / "out" / "i06_0.png").write_bytes(b"damaged, and never opened")
    for folder in (store, tmp_path / "out"):
        some = content(open_maps(folder).of({"i02", "i05"}))
        assert_same(some, {pair: m for pair, m in whole.items() if pair[0] in ("i02", "i05")})
        assert content(open_maps(folder).of(set())) == {}


def test_attention_wins_over_the_store(store, tmp_path):
    run_dir = store.parent
    publish(store, 1)
    (run_dir / "classes.txt").write_text("cat\ndog\ndining_table\n")
    assert open_maps(run_dir).folder == store
    make_store(tmp_path / "other", seed=9)
    export_store(str(tmp_path / "other"), str(run_dir / "attention"))
    source = open_maps(run_dir)
    assert source.folder == run_dir / "attention"
    assert_same(content(source.records), content(open_maps(tmp_path / "other").records))
    assert open_maps(store).folder == store  # by its own name


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_float_maps_are_float32(dtype, tmp_path):
    make_store(tmp_path / "store", manifest=make_manifest(dtype=dtype))
    expected = {
        (n, c): r.map_SS.astype(np.float32) for n, c, r in StoreReader(tmp_path / "store").records()
    }
    assert_same(content(open_maps(tmp_path / "store").records), expected)
    export_store(str(tmp_path / "store"), str(tmp_path / "out"), format="npy")
    assert open_maps(tmp_path / "out").dtype == "float32"
    assert_same(content(open_maps(tmp_path / "out").records), expected)


def test_a_folder_of_the_public_code_is_read_on_a_grid(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    ramp = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    Image.fromarray(ramp).save(tmp_path / "a_0.png")
    Image.fromarray(np.full((41, 41), 9, np.uint8)).save(tmp_path / "b_1.png")
    source = open_maps(tmp_path)
    assert source.map_size == 41
    maps = content(source.records)
    assert maps["b", 1].tolist() == np.full((41, 41), 9).tolist()
    assert maps["a", 0].shape == (41, 41)
    assert maps["a", 0][7].tolist() == pytest.approx(
        [200 * (j + 0.5) / 41 - 0.5 for j in range(41)], abs=1.01
    )


def test_what_is_refused(store, tmp_path):
    with pytest.raises(UserError, match="nowhere is no folder"):
        open_maps(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no maps, expected a store"):
        open_maps(tmp_path)
    export_store(str(store), str(tmp_path / "out"))
    (tmp_path / "out" / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"out has no classes\.txt, expected"):
        open_maps(tmp_path / "out")
    run_dir = store.parent
    (run_dir / "checkpoints").mkdir()
    shutil.rmtree(store)
    with pytest.raises(UserError, match="run directory without maps, expected one with attention/"):
        open_maps(run_dir)


def test_a_table_without_a_map_is_refused(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\n")
    (tmp_path / "pairs.csv").write_text("file,image_id,class\n,a,cat\n")
    with pytest.raises(UserError, match="names no file, expected at least one map"):
        open_maps(tmp_path)


def test_a_damaged_file_is_named_when_it_is_read(store, tmp_path):
    export_store(str(store), str(tmp_path / "out"))
    (tmp_path / "out" / "i06_0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"i06_0\.png is damaged"):
        content(open_maps(tmp_path / "out").records)
