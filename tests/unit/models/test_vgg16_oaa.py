"""The papers' VGG16. Legend: B images, 3 colours, H x W pixels."""

import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from dist_oaa.config.errors import UserError
from dist_oaa.models.vgg16_oaa import build_vgg16_oaa


def test_output_is_stride_8_with_512_channels():
    body, channels, stride = build_vgg16_oaa(8, -1)
    with torch.no_grad():
        features = body(torch.zeros(1, 3, 224, 224))
    assert features.shape == (1, 512, 28, 28)
    assert (channels, stride) == (512, 8)


def test_parameters_and_layers_of_the_papers_network():
    body, _, _ = build_vgg16_oaa(8, -1)
    assert sum(p.numel() for p in body.parameters()) == 14_714_688
    convolutions = [layer for layer in body if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 13
    assert [c.dilation[0] for c in convolutions] == [1] * 10 + [2] * 3
    assert [c.padding[0] for c in convolutions] == [1] * 10 + [2] * 3
    pools = [layer for layer in body if isinstance(layer, nn.MaxPool2d)]
    assert [(p.kernel_size, p.stride, p.padding) for p in pools] == [(2, 2, 0)] * 3 + [(3, 1, 1)]


def test_names_and_shapes_are_those_of_torchvision():
    body, _, _ = build_vgg16_oaa(8, -1)
    with torch.device("meta"):
        theirs = vgg16(weights=None).features.state_dict()
    ours = body.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_random_weights_keep_the_scale_of_the_signal():
    body, _, _ = build_vgg16_oaa(8, 2)
    with torch.no_grad():
        out = body(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(out).all()
    assert 0.05 < out.std() < 20


@pytest.mark.parametrize(
    ("index", "channels", "stride"),
    [(0, 64, 1), (1, 128, 2), (2, 256, 4), (3, 512, 8), (4, 512, 8), (-5, 64, 1), (-3, 256, 4)],
)
def test_each_stage_has_the_channels_and_stride_it_says(index, channels, stride):
    body, said_channels, said_stride = build_vgg16_oaa(8, index)
    with torch.no_grad():
        features = body(torch.zeros(1, 3, 32, 48))
    assert (said_channels, said_stride) == (channels, stride)
    assert features.shape == (1, channels, 32 // stride, 48 // stride)
    assert isinstance(body[-1], nn.ReLU)


@pytest.mark.parametrize("output_stride", [4, 16, 32])
def test_other_strides_are_refused(output_stride):
    with pytest.raises(UserError, match=r"model\.output_stride is .*stride 8 only"):
        build_vgg16_oaa(output_stride, -1)


@pytest.mark.parametrize("index", [5, -6])
def test_a_stage_that_is_not_there_is_refused(index):
    with pytest.raises(UserError, match=r"model\.out_index .*5 stages: expected -5 to 4"):
        build_vgg16_oaa(8, index)
