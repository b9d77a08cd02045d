"""Images and masks: every mode by its values, every fault by its sentence."""

import contextlib
import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_trees import write_image, write_mask
from dist_oaa.config.errors import UserError
from dist_oaa.data.images import BadImageError, read_image, read_mask, read_size


def png_with_header(path: Path, width: int, height: int) -> Path:
    """A PNG of a few dozen bytes whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_rgb_png_keeps_every_value_and_is_writable(tmp_path):
    path = write_image(tmp_path / "a.png", 5, 9)
    image = read_image(path, 80)
    assert image.shape == (5, 9, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, cv2.imread(str(path))[:, :, ::-1])
    image[:] = 0  # torch.from_numpy warns about arrays that cannot be written


def test_jpeg_agrees_with_opencv(tmp_path):
    path = tmp_path / "a.jpg"
    ramp = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
    Image.fromarray(np.stack([ramp, 255 - ramp, ramp // 2], axis=-1)).save(path, quality=95)
    ours = read_image(path, 80).astype(int)
    assert np.abs(ours - cv2.imread(str(path))[:, :, ::-1]).max() <= 2


def test_grey_and_one_bit_get_three_equal_channels(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png", 80), grey[..., None] + [0] * 3)
    Image.fromarray(grey > 20).save(tmp_path / "bit.png")
    expected = np.where(grey > 20, 255, 0)[..., None] + [0, 0, 0]
    np.testing.assert_array_equal(read_image(tmp_path / "bit.png", 80), expected)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm.ppm"])
def test_sixteen_bit_grey_is_scaled_and_rounded_not_clipped(tmp_path, name):
    values = np.array([[0, 128, 129, 257, 1000], [32768, 40000, 65278, 65406, 65535]], np.uint16)
    if name.endswith(".ppm"):
        (tmp_path / name).write_bytes(b"P5\n5 2\n65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / name)
    image = read_image(tmp_path / name, 80)
    np.testing.assert_array_equal(image[..., 0], np.rint(values / 257))
    np.testing.assert_array_equal(image[..., 0], image[..., 2])
    assert image.max() == 255


def test_palette_and_transparency_over_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (200, 10, 30, 255)
    rgba[0, 1] = (200, 10, 30, 0)
    rgba[1, 0] = (0, 0, 0, 51)  # one fifth black over white: 204
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    image = read_image(tmp_path / "rgba.png", 80)
    assert image[0, 0].tolist() == [200, 10, 30]
    assert image[0, 1].tolist() == [255, 255, 255]
    assert image[1, 0].tolist() == [204, 204, 204]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([9, 8, 7, 60, 50, 40])
    palette.save(tmp_path / "p.png", transparency=0)
    assert read_image(tmp_path / "p.png", 80)[0].tolist() == [[255] * 3, [60, 50, 40]]


def test_cmyk_jpeg(tmp_path):
    # Pure cyan ink on the left, no ink on the right.
    inks = np.zeros((16, 32, 4), np.uint8)
    inks[:, :16, 0] = 255
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.jpg", quality=100)
    image = read_image(tmp_path / "a.jpg", 80).astype(int)
    assert image.shape == (16, 32, 3)
    assert np.abs(image[4, 4] - [0, 255, 255]).max() < 5
    assert np.abs(image[4, 28] - [255, 255, 255]).max() < 5


def test_exif_orientation_only_when_asked(tmp_path):
    ramp = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None], 16, axis=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned by 90 degrees clockwise
    Image.fromarray(ramp).convert("RGB").save(tmp_path / "a.jpg", exif=exif, quality=100)
    raw = read_image(tmp_path / "a.jpg", 80)
    assert raw.shape == (24, 16, 3)
    assert read_size(tmp_path / "a.jpg") == (24, 16)
    turned = read_image(tmp_path / "a.jpg", 80, apply_exif=True)
    np.testing.assert_array_equal(turned, np.rot90(raw, -1))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\xff\xd8\xff\xe0 this is no JPEG at all", ""),
        (b"<html>not found</html>", "it is none of JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is none of JPEG"),
    ],
)
def test_no_image_at_all(tmp_path, content, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(BadImageError) as caught:
        read_image(path, 80)
    assert str(caught.value).startswith(f"{path} cannot be read as an image: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_truncated(tmp_path):
    with pytest.raises(BadImageError, match="No such file"):
        read_image(tmp_path / "none.jpg", 80)
    with pytest.raises(BadImageError, match="Is a directory"):
        read_image(tmp_path, 80)
    path = write_image(tmp_path / "a.jpg", 64, 64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadImageError, match=r"a\.jpg cannot be read as an image: .*truncated"):
        read_image(path, 80)
    assert read_size(path) == (64, 64)  # the header is whole


def test_pixel_bomb_is_refused_from_the_header_without_a_warning(tmp_path, monkeypatch):
    path = png_with_header(tmp_path / "bomb.png", 20000, 20000)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadImageError, match=r"20000 x 20000 pixels, 400 megapixels.*80 meg"):
            read_image(path, 80)
        assert read_size(path) == (20000, 20000)
        path = png_with_header(tmp_path / "between.png", 10000, 10000)  # PIL only warns here
        with pytest.raises(BadImageError, match="100 megapixels"):
            read_image(path, 80)


def test_pixel_limit_is_ours_not_pil_s(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.png", 30, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(path, 1200 / 1e6).shape == (30, 40, 3)
    with pytest.raises(BadImageError, match=r"data\.pixel_limit"):
        read_image(path, 1199 / 1e6)


def test_float_tiff_is_refused(tmp_path):
    Image.fromarray(np.ones((3, 3), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(BadImageError, match="32-bit pixels"):
        read_image(tmp_path / "a.tif", 80)


def test_bad_image_error_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(BadImageError("a.jpg cannot be read as an image: x")))
    assert isinstance(error, UserError)
    assert str(error) == "a.jpg cannot be read as an image: x"


def test_mask_gives_palette_indices(tmp_path):
    mask = np.array([[0, 1, 20], [255, 7, 0]])
    read = read_mask(write_mask(tmp_path / "m.png", mask))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, mask)
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.png"), mask)


def test_other_masks_are_refused(tmp_path):
    write_image(tmp_path / "rgb.png")
    with pytest.raises(BadImageError, match=r"rgb\.png .*mode RGB, expected a palette PNG"):
        read_mask(tmp_path / "rgb.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "grey.jpg")
    with pytest.raises(BadImageError, match="JPEG file of mode L, expected a palette PNG"):
        read_mask(tmp_path / "grey.jpg")
    (tmp_path / "bad.png").write_bytes(b"garbage")
    with pytest.raises(BadImageError):
        read_mask(tmp_path / "bad.png")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    suffix=st.sampled_from([".jpg", ".png", ".bmp", ".gif", ".webp", ".tif"]),
    edits=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4),
    keep=st.floats(0, 1),
)
def test_damaged_files_give_an_array_or_a_bad_image_error(tmp_path, suffix, edits, keep):
    path = write_image(tmp_path / f"a{suffix}", 24, 24)
    data = bytearray(path.read_bytes())
    for place, value in edits:
        data[int(place * len(data))] = value
    path.write_bytes(data[: int(keep * len(data))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's remarks on a damaged TIFF directory
        with contextlib.suppress(BadImageError):
            image = read_image(path, 1)
            assert image.dtype == np.uint8
            assert image.shape[2:] == (3,)
    os.unlink(path)
