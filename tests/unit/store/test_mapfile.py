"""Single map files: values, sizes, damage."""

import numpy as np
import pytest
import torch
from PIL import Image

from dist_oaa.config.errors import UserError
from dist_oaa.store.mapfile import quantise, read_map, to_grid, write_map


def test_quantise_rounds():
    assert quantise(np.array([[0, 1, 0.5, 1 / 255, 0.4 / 255]])).tolist() == [[0, 255, 128, 1, 0]]
    # Every level survives each float format.
    levels = np.arange(256, dtype=np.uint8)
    for dtype in ("float16", "float32"):
        np.testing.assert_array_equal(quantise((levels / np.float32(255)).astype(dtype)), levels)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_round_trip(tmp_path, dtype, suffix):
    map_SS = (np.arange(256).reshape(16, 16) / (1 if dtype == "uint8" else 255)).astype(dtype)
    write_map(tmp_path / f"a.{suffix}", map_SS)
    back = read_map(tmp_path / f"a.{suffix}")
    if suffix == "npy":
        assert back.dtype == dtype
    np.testing.assert_array_equal(to_grid(back, 16, np.dtype(dtype)), map_SS)


@pytest.mark.parametrize("shape", [(3, 8), (21, 21), (7, 7), (1, 1), (30, 5)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_resize_agrees_with_torch(shape, dtype):
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    if dtype == "uint8":
        values = quantise(values)
    scale = 255 if dtype == "uint8" else 1
    batch = torch.from_numpy(values.astype(np.float32))[None, None] / scale
    # Bilinear with half-pixel centres, no smoothing.
    expected = torch.nn.functional.interpolate(batch, (7, 7), mode="bilinear")[0, 0].numpy()
    np.testing.assert_allclose(to_grid(values, 7, np.dtype("float32")), expected, atol=1e-5)
    levels = to_grid(values, 7, np.dtype("uint8"))
    assert levels.dtype == np.uint8
    np.testing.assert_allclose(levels, 255 * expected, atol=0.51)


def save_npy(array):
    return lambda path: np.save(path.with_suffix(".npy"), array, allow_pickle=True)


def cut(path):
    write_map(path, np.zeros((41, 41), np.uint8))
    path.write_bytes(path.read_bytes()[:-30])


def absurd_header(path):
    with open(path.with_suffix(".npy"), "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 30, 1 << 30)}
        np.lib.format.write_array_header_1_0(file, header)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (cut, r"m\.png is damaged"),
        (lambda p: p.write_bytes(b""), r"m\.png is damaged"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\nnonsense"), r"m\.png is damaged"),
        (lambda p: Image.new("L", (4, 4)).save(p, format="JPEG"), r"m\.png is damaged"),
        (lambda p: Image.new("RGB", (4, 4)).save(p), "mode RGB, expected 8-bit grey"),
        (lambda p: Image.new("I;16", (4, 4)).save(p), "mode I;16, expected 8-bit grey"),
        (lambda p: Image.new("L", (9000, 1)).save(p), "sides of 1 to 8192"),
        (lambda p: p.with_suffix(".npy").write_bytes(b""), r"m\.npy is damaged"),
        (absurd_header, r"m\.npy is damaged"),
        (save_npy(np.array([[{}]], dtype=object)), r"m\.npy is damaged"),
        (save_npy(np.zeros((2, 2, 2))), "no two-dimensional array"),
        (save_npy(np.zeros((2, 2), dtype=int)), "type int64, expected uint8 or a float"),
        (save_npy(np.array([[0, 1.5]])), r"values from 0 to 1\.5, expected 0 to 1"),
        (save_npy(np.array([[-0.25, 1]])), r"values from -0\.25 to 1, expected 0 to 1"),
        (save_npy(np.array([[np.nan, 1]])), "values from nan to nan, expected 0 to 1"),
    ],
)
def test_bad_files(tmp_path, make, sentence):
    make(tmp_path / "m.png")
    (path,) = tmp_path.iterdir()
    with pytest.raises(UserError, match=sentence):
        read_map(path)
