"""Crops of a resized image, from which its class is predicted, beside its views.

Legend: B images of the batch; HW3 pixels; 23 geometry.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from dist_oaa.config.data import DataConfig
from dist_oaa.config.localize import CropsConfig
from dist_oaa.config.views import ViewsConfig
from dist_oaa.data.augment import resize, resized_shape
from dist_oaa.data.geometry import HORIZONTAL_FLIP_23, crop_23, then
from dist_oaa.data.loader import Batch, BatchLoader, Collate
from dist_oaa.data.sample import ImageSet
from dist_oaa.data.views import CollateViews, View, ViewedImages, views_of
from dist_oaa.runtime.watching.pulse import Pulse


def crops_of(
    image_HW3: np.ndarray, config: DataConfig, crops: CropsConfig, multiple: int
) -> list[View]:
    """The crops of an image: none, the centre, or the four corners and the centre, then all five
    mirrored.

    The image is resized as `data.resize` says, but to `crops.resize` pixels.

    Args:
        image_HW3: uint8 RGB.
        multiple: the trunk's stride in pixels; crops and resized images have multiples of it.
    """
    if crops.kind == "none":
        return []
    shape = resized_shape(*image_HW3.shape[:2], replace(config, size=crops.resize), multiple)
    resized_HW3 = resize(image_HW3, *shape)
    side = max(multiple, round(crops.size / multiple) * multiple)
    found = [_cut(resized_HW3, place, side) for place in _places(crops.kind)]
    if crops.kind == "ten":
        found += [_mirrored(view) for view in found]
    return found


def _places(kind: str) -> list[tuple[float, float]]:
    """Where the crops lie in the room that is left, as shares (down, right)."""
    corners = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)] if kind == "ten" else []
    return [*corners, (0.5, 0.5)]


def _cut(image_HW3: np.ndarray, place: tuple[float, float], side: int) -> View:
    height, width = image_HW3.shape[:2]
    rows, columns = min(side, height), min(side, width)
    top, left = round(place[0] * (height - rows)), round(place[1] * (width - columns))
    cut_23 = crop_23(left / width, top / height, columns / width, rows / height)
    cut_HW3 = np.ascontiguousarray(image_HW3[top : top + rows, left : left + columns])
    return cut_HW3, cut_23.astype(np.float32)


def _mirrored(view: View) -> View:
    image_HW3, geometry_23 = view
    mirrored_23 = then(geometry_23, HORIZONTAL_FLIP_23)
    return np.ascontiguousarray(image_HW3[:, ::-1]), mirrored_23.astype(np.float32)


def looks_at(
    image_HW3: np.ndarray,
    config: DataConfig,
    views: ViewsConfig,
    crops: CropsConfig,
    multiple: int,
) -> list[View]:
    """The views of an image (`views.count` of them), then its crops (`crops.count`)."""
    whole = views_of(image_HW3, config, views, multiple)
    return [*whole, *crops_of(image_HW3, config, crops, multiple)]


def look_loader(
    image_set: ImageSet,
    config: DataConfig,
    views: ViewsConfig,
    crops: CropsConfig,
    multiple: int,
    pin: bool,
    pulse: Pulse,
) -> BatchLoader:
    """Loads, for each array of image indices, one Batch for each view and then for each crop."""
    look = partial(looks_at, config=config, views=views, crops=crops, multiple=multiple)
    images = ViewedImages(image_set, config, look)
    collate = CollateViews(Collate(image_set), views.count + crops.count)
    return BatchLoader(image_set, config, multiple, 0, pin, images, collate, pulse)


def batch_of(
    image_HW3: np.ndarray,
    config: DataConfig,
    views: ViewsConfig,
    crops: CropsConfig,
    multiple: int,
    collate: Collate,
) -> Sequence[Batch]:
    """The batches of a single image that no loader has read; `collate` is of a set of one image."""
    looks = looks_at(image_HW3, config, views, crops, multiple)
    return CollateViews(collate, len(looks))([(0, looks)])
