"""Scoring one image: any size, scales, mirror images and tiles, against simpler ways."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dist_oaa.models.backbones import Trunk
from dist_oaa.models.segmentation.network import SegmentationNetwork
from dist_oaa.models.segmentation.scoring import Scorer, view_size


def network_of(stride=4, kernel=3, seed=0):
    """Sees (kernel // 2) cells around each cell of stride x stride pixels."""
    torch.manual_seed(seed)
    trunk = Trunk(nn.Sequential(nn.Conv2d(3, 8, stride, stride), nn.ReLU()), 8, stride)
    network = SegmentationNetwork(trunk, nn.Conv2d(8, 4, kernel, padding=kernel // 2), 3)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.4)
    return network


def image_of(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalised(network, image):
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    return network.normalisation.apply(pixels)


def test_one_view_is_the_softmax_at_the_images_size():
    network, image = network_of(), image_of(24, 32)
    with torch.no_grad():
        logits = network(normalised(network, image))
    expected = F.interpolate(logits, size=(24, 32), mode="bilinear").softmax(1)[0]
    found = Scorer(network).probabilities(image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    scales=st.lists(st.sampled_from([0.3, 0.5, 1.0, 1.7]), min_size=1, max_size=2),
    tile=st.sampled_from([0, 23, 32]),
    size=st.sampled_from([0, 20]),
)
def test_any_image_gets_probabilities_of_its_size_and_mirrors(height, width, scales, tile, size):
    image = image_of(height, width)
    scorer = Scorer(network_of(), scales=scales, flip=True, tile=tile, overlap=5, size=size)
    found = scorer.probabilities(image)
    assert found.shape == (4, height, width)
    assert found.min() >= 0
    torch.testing.assert_close(found.sum(0), torch.ones(height, width))
    mirrored = scorer.probabilities(image[:, ::-1])
    torch.testing.assert_close(mirrored.flip(-1), found, rtol=0, atol=2e-5)


def test_views_are_averaged():
    network, image = network_of(), image_of(30, 41)
    views = [Scorer(network, scales=[s]).probabilities(image) for s in (0.5, 1.5)]
    found = Scorer(network, scales=[0.5, 1.5]).probabilities(image)
    torch.testing.assert_close(found, (views[0] + views[1]) / 2)
    mirrored = Scorer(network).probabilities(image[:, ::-1]).flip(-1)
    plain = Scorer(network).probabilities(image)
    assert (mirrored - plain).abs().max() > 1e-3
    flipped = Scorer(network, flip=True).probabilities(image)
    torch.testing.assert_close(flipped, (plain + mirrored) / 2)


def test_a_short_side_sets_the_size_of_scale_one():
    network, image = network_of(), image_of(30, 60)
    expected = Scorer(network, scales=[0.8]).probabilities(image)
    torch.testing.assert_close(Scorer(network, size=24).probabilities(image), expected)
    assert view_size((30, 60), 1.5, 20) == (30, 60)
    assert view_size((375, 500), 0.75, 0) == (281, 375)
    assert view_size((1, 3), 0.1, 0) == (1, 1)


def test_tiles_agree_with_the_whole_where_they_see_enough():
    stride, reach = 4, 4  # a 9 x 9 head sees 4 cells around
    network, image = network_of(stride, 2 * reach + 1), image_of(90, 134)
    network.head.weight.data /= 5  # 648 inputs a cell: keeps the softmax from being all or nothing
    whole = Scorer(network).probabilities(image)
    tile, overlap = 80, 48
    tiled = Scorer(network, tile=tile, overlap=overlap).probabilities(image)
    difference = (tiled - whole).abs().amax(0)
    assert difference.mean() < 0.03
    # The view is 92 x 136: tiles at rows 0, 12 and at columns 0, 28, 56. Where a pixel is further
    # from the cut edges of its tiles than the head (and the enlarging) reaches, nothing differs.
    margin = (reach + 1) * stride
    inner = torch.ones(92, 136, dtype=torch.bool)
    inner[12 : 12 + margin] = False
    inner[80 - margin : 80] = False
    for start, end in ((28, 108), (56, 80)):
        inner[:, start : start + margin] = False
        inner[:, end - margin : end] = False
    inner = inner[:90, :134]
    assert inner.sum() > 500
    assert difference[inner].max() < 1e-5
    assert difference.max() > 1e-3  # the zero padding of a tile's edge does differ


def test_tiles_of_a_network_that_sees_one_pixel_change_nothing():
    network, image = network_of(1, 1), image_of(33, 50)
    whole = Scorer(network).probabilities(image)
    for tile, overlap in ((16, 0), (16, 15), (7, 3), (64, 20)):
        tiled = Scorer(network, tile=tile, overlap=overlap).probabilities(image)
        torch.testing.assert_close(tiled, whole)


def test_no_forward_pass_sees_more_than_a_tile():
    network, seen = network_of(), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:]))
    Scorer(network, tile=18, overlap=4, scales=[1.0, 2.0]).probabilities(image_of(40, 15))
    assert len(seen) > 4
    assert max(max(shape) for shape in seen) <= 16  # whole cells of 4 pixels


def test_the_seam_between_tiles_is_smooth():
    # A network that answers with the column inside its tile: blending must not jump.
    class Column(nn.Module):
        stride, mean, std = 1, (0.5,) * 3, (0.5,) * 3

        def forward(self, images):
            column = torch.linspace(-3, 3, images.shape[-1]).expand(1, 1, *images.shape[-2:])
            return torch.cat([column, torch.zeros_like(column)], dim=1)

    network = SegmentationNetwork(Column(), nn.Identity(), 1)
    scorer = Scorer(network, tile=40, overlap=20)
    row = scorer.probabilities(image_of(4, 100))[0, 0]
    # A tile rises by at most 0.04 a column; fading over 20 columns between answers that differ by
    # less than 0.9 adds at most 0.9 * pi / 2 / 20. A hard edge would jump by 0.4 at least.
    assert (row[1:] - row[:-1]).abs().max() < 0.04 + 0.9 * math.pi / 40


def test_the_network_is_left_as_it_was_found():
    network = network_of()
    network.head = nn.Sequential(nn.Dropout(0.5), network.head)
    scorer, image = Scorer(network.train()), image_of(16, 16)
    assert torch.equal(scorer.probabilities(image), scorer.probabilities(image))
    assert network.training
    assert not Scorer(network.eval()).probabilities(image).requires_grad
    assert not network.training


def test_read_only_and_mirrored_images_are_taken():
    image = image_of(8, 8)
    image.flags.writeable = False
    scorer = Scorer(network_of())
    first = scorer.probabilities(image[::-1, ::-1])
    torch.testing.assert_close(first, scorer.probabilities(image[::-1, ::-1].copy()))


def test_half_precision_is_close():
    network, image = network_of(), image_of(32, 32)
    exact = Scorer(network).probabilities(image)
    found = Scorer(network, precision="bf16").probabilities(image)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < 0.05


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scales": []}, "scales is"),
        ({"scales": [1.0, 0.0]}, "scales is"),
        ({"tile": 16, "overlap": 16}, "overlap is 16 pixels, expected 0 to 12"),
        ({"tile": 16, "overlap": -1}, "overlap is -1"),
    ],
)
def test_settings_that_make_no_sense(options, words):
    with pytest.raises(ValueError, match=words):
        Scorer(network_of(), **options)
