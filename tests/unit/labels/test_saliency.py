"""Saliency maps: files that fit and files that do not, the spectral residual, rembg as an extra."""

import sys
import types

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dist_oaa.config.errors import UserError
from dist_oaa.labels.saliency import (
    read_saliency,
    rembg_saliency,
    rembg_session,
    spectral_residual,
)


def test_a_map_is_read_from_sub_folders_too(tmp_path):
    wanted = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    (tmp_path / "night").mkdir()
    Image.fromarray(wanted).save(tmp_path / "night" / "a.png")
    got = read_saliency(tmp_path, "night/a", (3, 4))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, wanted)


def test_a_map_in_colour_is_taken_as_grey(tmp_path):
    Image.new("RGB", (4, 3), (90, 90, 90)).save(tmp_path / "a.png")
    assert (read_saliency(tmp_path, "a", (3, 4)) == 90).all()


def test_maps_that_do_not_fit_name_their_file(tmp_path):
    with pytest.raises(UserError, match=r"saliency map .*a\.png is missing"):
        read_saliency(tmp_path, "a", (3, 4))
    Image.new("L", (4, 3)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png has \(3, 4\) pixels.*\(4, 3\)"):
        read_saliency(tmp_path, "a", (4, 3))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"b\.png cannot be read"):
        read_saliency(tmp_path, "b", (3, 4))
    (tmp_path / "c.png").write_text("no picture")
    with pytest.raises(UserError, match=r"c\.png cannot be read"):
        read_saliency(tmp_path, "c", (3, 4))
    Image.fromarray(np.full((3, 4), 40000, np.uint16)).save(tmp_path / "d.png")
    with pytest.raises(UserError, match=r"d\.png is of mode I.*8-bit grey"):
        read_saliency(tmp_path, "d", (3, 4))


def residual_by_scipy(image):
    """Hou and Zhang's equations on a 64 x 64 image, with scipy's filters."""
    best = np.zeros(image.shape[:2])
    for channel in np.moveaxis(image.astype(np.float64), 2, 0):
        spectrum = np.fft.fft2(channel)
        log = np.log(np.maximum(np.abs(spectrum), 1e-6))
        residual = log - ndimage.uniform_filter(log, 3, mode="wrap")
        back = np.abs(np.fft.ifft2(np.exp(residual) * np.exp(1j * np.angle(spectrum)))) ** 2
        best = np.maximum(best, ndimage.gaussian_filter(back, 2.5, mode="mirror"))
    return (best - best.min()) / (best.max() - best.min()) * 255


def test_the_spectral_residual_is_that_of_the_paper():
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    got = spectral_residual(image)
    assert got.dtype == np.uint8
    np.testing.assert_allclose(got, residual_by_scipy(image), atol=1)
    assert (got.min(), got.max()) == (0, 255)


def test_the_odd_one_out_is_salient_at_any_size():
    image = np.random.default_rng(0).normal(100, 8, (120, 200, 3)).astype(np.uint8)
    image[50:70, 130:150] = (255, 30, 30)
    saliency = spectral_residual(image)
    assert saliency.shape == (120, 200)
    inside = np.zeros((120, 200), bool)
    inside[45:75, 125:155] = True
    assert inside[np.unravel_index(saliency.argmax(), saliency.shape)]
    assert saliency[inside].mean() > 2 * saliency[~inside].mean()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (7, 5), (64, 64)])
def test_a_flat_image_has_nothing_salient(shape):
    assert (spectral_residual(np.full((*shape, 3), 77, np.uint8)) == 0).all()


def test_without_rembg_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(UserError, match=r"needs rembg: pip install 'dist_oaa\[rembg\]'"):
        rembg_session("u2netp")


def test_rembg_gives_a_byte_for_each_pixel(monkeypatch):
    def remove(picture, session, only_mask):
        assert (session, only_mask) == ("session of u2netp", True)
        return picture.convert("L")

    fake = types.SimpleNamespace(new_session=lambda name: f"session of {name}", remove=remove)
    monkeypatch.setitem(sys.modules, "rembg", fake)
    image = np.full((3, 4, 3), 60, np.uint8)
    saliency = rembg_saliency(rembg_session("u2netp"), image)
    assert saliency.dtype == np.uint8
    np.testing.assert_array_equal(saliency, np.full((3, 4), 60))


def test_weights_that_rembg_cannot_get_are_the_users_matter(monkeypatch):
    def new_session(name):
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "rembg", types.SimpleNamespace(new_session=new_session))
    with pytest.raises(UserError, match=r"rembg_model 'u2netp' .*no route to host"):
        rembg_session("u2netp")
