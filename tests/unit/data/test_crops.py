"""Crops of an image against torchvision's, and where they say that they lie."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from dist_oaa.config.data import DataConfig
from dist_oaa.config.localize import CropsConfig
from dist_oaa.config.views import ViewsConfig
from dist_oaa.data.augment import resize, resized_shape
from dist_oaa.data.crops import crops_of, looks_at

SETTINGS = DataConfig(resize="short_side", size=96)


def image(height: int = 90, width: int = 130) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("resized", "side"), [(64, 48), (64, 64), (96, 32)])
def test_ten_crops_are_torchvisions(resized, side):
    config = CropsConfig(kind="ten", resize=resized, size=side)
    found = crops_of(image(), SETTINGS, config, multiple=16)
    shape = resized_shape(90, 130, DataConfig(size=resized), 16)
    whole = torch.from_numpy(resize(image(), *shape)).permute(2, 0, 1)
    expected = [crop.permute(1, 2, 0).numpy() for crop in tv.ten_crop(whole, [side, side])]
    assert len(found) == config.count == 10
    # torchvision mirrors the image and not the crops, which gives the same ten in another order.
    assert sorted(crop.tobytes() for crop, _ in found) == sorted(c.tobytes() for c in expected)
    assert all(crop.shape == (side, side, 3) for crop, _ in found)


def test_centre_is_the_fifth_of_ten_and_none_is_none():
    ten = crops_of(image(), SETTINGS, CropsConfig(kind="ten", resize=64, size=48), 16)
    ((centre_HW3, _),) = crops_of(
        image(), SETTINGS, CropsConfig(kind="centre", resize=64, size=48), 16
    )
    np.testing.assert_array_equal(centre_HW3, ten[4][0])
    assert crops_of(image(), SETTINGS, CropsConfig(), 16) == []


def test_geometry_leads_from_the_image_to_the_crop():
    # Red grows to the right and green downwards: a pixel's colour is its place.
    height, width = 128, 192
    ramp_HW3 = np.zeros((height, width, 3), dtype=np.uint8)
    ramp_HW3[..., 0] = np.arange(width)
    ramp_HW3[..., 1] = np.arange(height)[:, None]
    crops = crops_of(ramp_HW3, SETTINGS, CropsConfig(kind="ten", resize=128, size=64), 16)
    for crop_HW3, geometry_23 in crops:
        rows, columns = crop_HW3.shape[:2]
        row, column = 10, 40
        u = (crop_HW3[row, column, 0] + 0.5) / width
        v = (crop_HW3[row, column, 1] + 0.5) / height
        x, y = geometry_23 @ np.array([u, v, 1.0])
        assert (x * columns, y * rows) == pytest.approx((column + 0.5, row + 0.5), abs=1e-3)


def test_views_come_before_crops():
    views = ViewsConfig(scales=[1.0, 0.5], flip=True)
    crops = CropsConfig(kind="centre", resize=64, size=32)
    shapes = [look[0].shape[:2] for look in looks_at(image(), SETTINGS, views, crops, 16)]
    assert shapes == [(96, 144), (96, 144), (48, 64), (48, 64), (32, 32)]


def test_a_crop_must_fit():
    with pytest.raises(ValueError, match=r"crops.size is 300 and crops.resize 256"):
        CropsConfig(size=300)
