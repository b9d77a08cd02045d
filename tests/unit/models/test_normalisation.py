"""Input normalisation. Legend: B images, 3 colours, H x W pixels, 2 = (height, width)."""

import pytest
import torch
from torchvision.transforms import functional

from dist_oaa.models.normalisation import NORMALISATIONS, Normalisation


def pixel(*rgb):
    return torch.tensor(rgb, dtype=torch.uint8).reshape(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("name", "rgb", "expected"),
    [
        ("half", (0, 255, 51), (-1.0, 1.0, -0.6)),
        ("imagenet", (255, 0, 51), ((1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225)),
        # blue, green, red minus the mean of each, still in units of 0..255
        ("caffe", (200, 100, 50), (50 - 104.008, 100 - 116.669, 200 - 122.675)),
    ],
)
def test_by_hand(name, rgb, expected):
    out_B3HW = NORMALISATIONS[name].apply(pixel(*rgb))
    assert out_B3HW.dtype == torch.float32
    assert out_B3HW.flatten().tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_equals_torchvision(dtype):
    generator = torch.Generator().manual_seed(0)
    images_B3HW = torch.randint(0, 256, (2, 3, 5, 7), generator=generator).to(dtype)
    ours = Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)).apply(images_B3HW)
    theirs = functional.normalize(images_B3HW.float() / 255, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs)


def test_padding_becomes_the_mean_colour():
    images_B3HW = torch.full((2, 3, 4, 5), 200, dtype=torch.uint8)
    plain_B3HW = NORMALISATIONS["imagenet"].apply(images_B3HW)
    extent_B2 = torch.tensor([[4, 5], [2, 3]])
    out_B3HW = NORMALISATIONS["imagenet"].apply(images_B3HW, extent_B2)
    assert torch.equal(out_B3HW[0], plain_B3HW[0])
    assert torch.equal(out_B3HW[1, :, :2, :3], plain_B3HW[1, :, :2, :3])
    assert out_B3HW[1].count_nonzero() == 3 * 2 * 3
