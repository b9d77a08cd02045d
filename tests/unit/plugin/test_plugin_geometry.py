"""Geometry: what it says of a view is where the pixels really went."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from dist_oaa import Geometry

HEIGHT, WIDTH = 40, 60


def coordinates() -> torch.Tensor:
    """An image whose two channels are the normalised u and v of each pixel's centre."""
    u = (torch.arange(WIDTH) + 0.5) / WIDTH
    v = (torch.arange(HEIGHT) + 0.5) / HEIGHT
    return torch.stack([u.expand(HEIGHT, WIDTH), v[:, None].expand(HEIGHT, WIDTH)])


def assert_tells_where(view: Geometry, image: torch.Tensor, atol: float = 1e-5) -> None:
    """The matrix takes the (u, v) that a pixel holds to the place where the pixel is."""
    assert image.shape[-2:] == (view.height, view.width)
    rows, columns = image.shape[-2:]
    x = ((torch.arange(columns) + 0.5) / columns).expand(rows, columns)
    y = ((torch.arange(rows) + 0.5) / rows)[:, None].expand(rows, columns)
    u, v = image
    a = view.matrix
    known = (u > 0) & (v > 0)  # padding holds zeros
    assert known.any()
    for row, place in zip(a, (x, y), strict=True):
        told = row[0] * u + row[1] * v + row[2]
        torch.testing.assert_close(told[known], place[known], rtol=0, atol=atol)


STEPS = {
    "crop": (lambda i: tv.crop(i, 4, 10, 20, 30), lambda g: g.crop(4, 10, 20, 30)),
    "crop over the edge": (lambda i: tv.crop(i, -6, 40, 30, 50), lambda g: g.crop(-6, 40, 30, 50)),
    "hflip": (tv.hflip, lambda g: g.hflip()),
    "vflip": (tv.vflip, lambda g: g.vflip()),
    "pad": (lambda i: tv.pad(i, [3, 5, 7, 9]), lambda g: g.pad(3, 5, 7, 9)),
}


@pytest.mark.parametrize("step", STEPS)
def test_each_step(step):
    change, tell = STEPS[step]
    assert_tells_where(tell(Geometry(HEIGHT, WIDTH)), change(coordinates()))


def test_steps_in_a_row():
    image, view = coordinates(), Geometry(HEIGHT, WIDTH)
    for name in ("crop", "hflip", "pad", "vflip"):
        change, tell = STEPS[name]
        image, view = change(image), tell(view)
    assert_tells_where(view, image)


def test_resized_crop():
    image = tv.resized_crop(coordinates(), 4, 10, 24, 30, (48, 60), antialias=True)
    view = Geometry(HEIGHT, WIDTH).resized_crop(4, 10, 24, 30, (48, 60))
    # Bilinear resizing holds the outermost half pixel of the crop at its edge value.
    inside = (slice(None), slice(2, -2), slice(2, -2))
    rows = torch.arange(48)[inside[1]]
    columns = torch.arange(60)[inside[2]]
    u, v = image[inside]
    told_x = view.matrix[0, 0] * u + view.matrix[0, 2]
    told_y = view.matrix[1, 1] * v + view.matrix[1, 2]
    torch.testing.assert_close(told_x[0], (columns + 0.5) / 60, rtol=0, atol=1e-4)
    torch.testing.assert_close(told_y[:, 0], (rows + 0.5) / 48, rtol=0, atol=1e-4)


def test_a_resize_of_the_whole_image_is_the_identity():
    view = Geometry(HEIGHT, WIDTH).resize(224, 224)
    assert view.matrix.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert view.matrix.dtype == torch.float32
    assert (view.height, view.width) == (224, 224)


def test_conditional_flips():
    view = Geometry(HEIGHT, WIDTH)
    assert np.array_equal(view.hflip(False).vflip(False).matrix, view.matrix)


def test_sizes_without_area():
    with pytest.raises(ValueError, match="0 x 5 pixels has no area"):
        Geometry(0, 5)
    with pytest.raises(ValueError, match="has no area"):
        Geometry(4, 5).crop(0, 0, 0, 3)
