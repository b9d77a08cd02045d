"""The dictionaries of IRN and PSA: what they hold, both ways, and through `oaa store import`."""

import pickletools

import numpy as np
import pytest
import torch

from dist_oaa.config.errors import UserError
from dist_oaa.stages.exchanging.maps import export_maps
from dist_oaa.store.dictfile import read_maps, write_maps
from dist_oaa.store.importer import import_folder
from dist_oaa.store.maps import open_maps
from dist_oaa.store.reader import StoreReader
from store_builders import make_manifest, make_store

RNG = np.random.default_rng(0)


def save(path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, content)


def irn(keys=(1, 4), height=9, width=13, **changes) -> dict:
    """A dictionary as IRN's make_cam.py saves it: two tensors and an array."""
    full = RNG.random((len(keys), height, width), dtype=np.float32)
    cam = torch.rand(len(keys), (height - 1) // 4 + 1, (width - 1) // 4 + 1)
    return {"keys": torch.tensor(keys), "cam": cam, "high_res": full} | changes


def test_irn_gives_the_full_size(tmp_path):
    content = irn()
    save(tmp_path / "x.npy", content)
    maps = read_maps(tmp_path / "x.npy")
    assert list(maps) == [1, 4]
    for map_HW, expected in zip(maps.values(), content["high_res"], strict=True):
        np.testing.assert_array_equal(map_HW, expected)


def test_irn_without_the_full_size_gives_the_quarter(tmp_path):
    content = irn()
    del content["high_res"]
    save(tmp_path / "x.npy", content)
    np.testing.assert_array_equal(read_maps(tmp_path / "x.npy")[4], content["cam"][1].numpy())


def test_psa(tmp_path):
    content = {2: RNG.random((5, 7), np.float32), np.int64(0): RNG.random((5, 7))}
    save(tmp_path / "x.npy", content)
    maps = read_maps(tmp_path / "x.npy")
    assert list(maps) == [2, 0]
    np.testing.assert_array_equal(maps[2], content[2])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (irn(keys=(1, 1)), "names a class twice"),
        (irn(high_res=np.zeros((3, 4, 4))), "is an array of 2 maps"),
        (irn(keys=(-1, 4)), "has the key '-1', expected class indices"),
        ({"keys": 3}, "'keys' is no list"),
        ({"a": np.zeros((2, 2))}, "has the key 'a', expected class indices"),
        ({True: np.zeros((2, 2))}, "has the key 'True'"),
        ({0: 1.5}, "class 0 has no array"),
        ({0: np.full((2, 2), 1.5)}, "class 0 has values from 1.5 to 1.5, expected 0 to 1"),
        ({0: np.full((2, 2), np.nan)}, "class 0 has values from nan"),
        ({0: np.zeros(4)}, "class 0 is no two-dimensional array"),
        ({0: np.zeros((2, 2), np.int32)}, "class 0 has type int32"),
        ({0: np.zeros((0, 2))}, "expected sides of 1"),
    ],
)
def test_what_is_no_dictionary_of_maps(tmp_path, content, says):
    save(tmp_path / "x.npy", content)
    with pytest.raises(UserError, match=says) as caught:
        read_maps(tmp_path / "x.npy")
    assert str(tmp_path / "x.npy") in str(caught.value)


def test_written_irn_is_what_irn_reads(tmp_path):
    maps = {4: RNG.random((6, 6), np.float32), 1: RNG.random((6, 6), np.float32)}
    write_maps(tmp_path / "x.npy", "irn", maps, (30, 41))
    # As make_sem_seg_labels.py and cam_to_ir_label.py read it.
    content = np.load(tmp_path / "x.npy", allow_pickle=True).item()
    assert isinstance(content["cam"], torch.Tensor)
    assert content["cam"].shape == (2, 8, 11)
    assert np.pad(content["keys"] + 1, (1, 0), mode="constant").tolist() == [0, 2, 5]
    assert content["high_res"].shape == (2, 30, 41)
    # Against another bilinear interpolation with half-pixel centres.
    for row, c in enumerate((1, 4)):
        tensor = torch.from_numpy(maps[c])[None, None]
        for size, found in (((30, 41), content["high_res"]), ((8, 11), content["cam"])):
            wanted = torch.nn.functional.interpolate(tensor, size, mode="bilinear")[0, 0]
            np.testing.assert_allclose(np.asarray(found[row]), wanted.numpy(), atol=2e-6)


def test_written_psa_is_what_psa_reads(tmp_path):
    maps = {4: np.array([[0, 255]], np.uint8), 0: np.array([[51, 102]], np.uint8)}
    write_maps(tmp_path / "x.npy", "psa", maps, None)
    content = np.load(tmp_path / "x.npy", allow_pickle=True).item()
    assert list(content) == [0, 4]
    assert all(isinstance(c, int) and m.dtype == np.float32 for c, m in content.items())
    np.testing.assert_allclose(content[0], [[0.2, 0.4]], atol=1e-7)


def test_old_numpy_can_import_what_a_written_file_names(tmp_path):
    write_maps(tmp_path / "x.npy", "irn", {0: np.ones((3, 3), np.float32)}, None)
    data = (tmp_path / "x.npy").read_bytes()
    pickled = data[data.index(b"\n") + 1 :]
    names = [arg for op, arg, _ in pickletools.genops(pickled) if op.name == "GLOBAL"]
    assert "numpy.core.multiarray _reconstruct" in names
    assert not [name for name in names if "_core" in name]
    assert not [op for op, _, _ in pickletools.genops(pickled) if op.proto > 3]


@pytest.mark.parametrize("kind", ["irn", "psa"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_export_then_import_gives_the_same_maps(tmp_path, kind, dtype, capsys):
    manifest = make_manifest({"b": (0, 2), "sub/a_1": (1,), "sub/deep/c": (0,)}, dtype=dtype)
    make_store(tmp_path / "store", manifest=manifest)
    export_maps(str(tmp_path / "store"), str(tmp_path / "out"), kind)
    files = sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/**/*.npy")
    )
    assert files == ["b.npy", "sub/a_1.npy", "sub/deep/c.npy"]
    assert "4 maps of 3 images" in capsys.readouterr().out
    import_folder(str(tmp_path / "out"), str(tmp_path / "back"), map_size=5, dtype=dtype, shards=2)
    before, after = (
        {(n, c): r.map_SS for n, c, r in StoreReader(tmp_path / name).records()}
        for name in ("store", "back")
    )
    assert before.keys() == after.keys()
    for pair, map_SS in before.items():
        np.testing.assert_array_equal(after[pair], map_SS)
    assert StoreReader(tmp_path / "back").manifest.class_names == manifest.class_names


def test_import_of_an_irn_folder_with_class_names_beside(tmp_path):
    contents = {"2007_000032": irn((0, 2), 20, 30), "2007_000039": irn((1,), 25, 18)}
    for name, content in contents.items():
        save(tmp_path / f"cams/{name}.npy", content)
    (tmp_path / "names.txt").write_text("cat\ndog\ncow\n")
    arguments = (str(tmp_path / "cams"), str(tmp_path / "s"), str(tmp_path / "names.txt"))
    import_folder(*arguments, map_size=10, dtype="float32", shards=2)
    found = {(n, c): r.map_SS for n, c, r in StoreReader(tmp_path / "s").records()}
    # A name like an image and a class: 2007_000032 is neither image 2007 nor class 32.
    assert found.keys() == {("2007_000032", 0), ("2007_000032", 2), ("2007_000039", 1)}
    full = torch.from_numpy(contents["2007_000032"]["high_res"])[None]
    wanted = torch.nn.functional.interpolate(full, (10, 10), mode="bilinear")[0, 1].numpy()
    np.testing.assert_allclose(found["2007_000032", 2], wanted, atol=2e-6)


def test_such_folders_are_maps_for_every_stage(tmp_path):
    save(tmp_path / "cams/a.npy", {0: RNG.random((12, 12), np.float32)})
    save(tmp_path / "cams/b.npy", {1: RNG.random((12, 12), np.float32)})
    (tmp_path / "cams/classes.txt").write_text("cat\ndog\n")
    source = open_maps(tmp_path / "cams")
    assert source.pairs == (("a", 0), ("b", 1))
    assert [(n, c, m.shape) for n, c, m in source.records] == [
        ("a", 0, (12, 12)),
        ("b", 1, (12, 12)),
    ]


def test_mistakes_leave_nothing(tmp_path):
    save(tmp_path / "cams/a.npy", {7: np.zeros((3, 3), np.float32)})
    (tmp_path / "cams/classes.txt").write_text("cat\n")
    with pytest.raises(UserError, match="class index 7 is unknown, expected 0 to 0"):
        import_folder(str(tmp_path / "cams"), str(tmp_path / "s"))
    make_store(tmp_path / "store")
    store, out = str(tmp_path / "store"), str(tmp_path / "out")
    for arguments, says in (
        ({"format": "irn", "images": str(tmp_path / "no")}, "--images .*no is no folder"),
        ({"format": "irn", "images": str(tmp_path)}, "does not exist as .jpg"),
        ({"format": "png", "images": str(tmp_path)}, "--images is for irn and psa, not for png"),
        ({"format": "psa", "naming": "name"}, "psa numbers classes from 0"),
    ):
        with pytest.raises(UserError, match=says):
            export_maps(store, out, **arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cams", "store"]
