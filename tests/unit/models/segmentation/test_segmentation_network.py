"""The network around trunk and head: several input scales, frozen batch norm."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dist_oaa.models.backbones import Trunk
from dist_oaa.models.segmentation.network import SegmentationNetwork


def small(scales=(), norm=False):
    layers = [nn.Conv2d(3, 4, 4, 4), nn.ReLU()]
    body = nn.Sequential(*layers, *([nn.BatchNorm2d(4)] if norm else []))
    torch.manual_seed(5)
    for parameter in body.parameters():
        nn.init.normal_(parameter)
    return SegmentationNetwork(Trunk(body, 4, 4), nn.Conv2d(4, 3, 3, padding=1), 2, scales)


def test_one_scale_is_the_head_over_the_trunk():
    network, images = small(), torch.randn(2, 3, 16, 24)
    scores = network(images)
    assert scores.shape == (2, 3, 4, 6)
    assert torch.equal(scores, network.head(network.trunk(images)))
    assert network.stride == 4
    assert network.num_classes == 2


def test_several_scales_are_fused_by_their_maximum():
    network, plain = small((0.5, 0.75, 1.0)), small()
    plain.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 32, 48)
    by_hand = [
        plain(images if scale == 1 else F.interpolate(images, scale_factor=scale, mode="bilinear"))
        for scale in (1.0, 0.75, 0.5)
    ]
    enlarged = [F.interpolate(s, size=(8, 12), mode="bilinear") for s in by_hand]
    fused, *parts = network(images)
    torch.testing.assert_close(fused, torch.stack(enlarged).amax(0))
    for part, expected in zip(parts, by_hand, strict=True):
        torch.testing.assert_close(part, expected)
    torch.testing.assert_close(network.eval()(images), fused)


def test_every_scale_gets_a_gradient_through_the_parts():
    network = small((0.5, 1.0))
    for output in network(torch.randn(1, 3, 16, 16)):
        network.zero_grad()
        output.sum().backward(retain_graph=True)
        assert network.trunk.body[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [(1, 1), (5, 17), (33, 7)])
def test_odd_sizes_pass_with_several_scales(size):
    images = torch.randn(1, 3, 8 + size[0], 8 + size[1])
    fused = small((0.5, 1.0)).eval()(images)
    assert fused.shape == (1, 3, images.shape[-2] // 4, images.shape[-1] // 4)


def test_frozen_batch_norm_stays_frozen():
    network = small(norm=True)
    network.freeze_batch_norm()
    layer = network.trunk.body[2]
    assert network.train().training
    assert not layer.training
    assert not any(p.requires_grad for p in layer.parameters())
    before = layer.running_mean.clone()
    network(torch.randn(2, 3, 16, 16)).sum().backward()
    assert torch.equal(layer.running_mean, before)
    assert network.trunk.body[0].weight.grad is not None


def test_batch_norm_that_is_not_frozen_learns():
    network = small(norm=True)
    before = network.trunk.body[2].running_mean.clone()
    network.train()(torch.randn(2, 3, 16, 16))
    assert not torch.equal(network.trunk.body[2].running_mean, before)
