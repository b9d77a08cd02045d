"""The heads of DeepLab against plain convolutions and against where a cell may look."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dist_oaa.config.segmentation import SegmentationConfig
from dist_oaa.models.segmentation.heads import DilatedHead, build_head, rates_at, vgg16_pool5


def head_of(kind, rates, pool=None, dropout=0.0):
    head = DilatedHead(6, 4, rates, kind, 5, dropout, pool or nn.Identity())
    head.reset(torch.Generator().manual_seed(1))
    return head.eval()


def test_branches_of_a_plain_head_are_summed():
    head = head_of("plain", (1, 3))
    features = torch.randn(2, 6, 9, 8)
    expected = sum(
        F.conv2d(features, b.fc8.weight, b.fc8.bias, padding=rate, dilation=rate)
        for b, rate in zip(head.branches, (1, 3), strict=True)
    )
    torch.testing.assert_close(head(features), expected)


def test_an_mlp_branch_is_three_layers():
    head = head_of("mlp", (2,))
    features = torch.randn(1, 6, 7, 7)
    branch = head.branches[0]
    hidden = F.conv2d(features, branch.fc6.weight, branch.fc6.bias, padding=2, dilation=2)
    hidden = F.relu(F.conv2d(F.relu(hidden), branch.fc7.weight, branch.fc7.bias))
    expected = F.conv2d(hidden, branch.fc8.weight, branch.fc8.bias)
    torch.testing.assert_close(head(features), expected)


@pytest.mark.parametrize("kind", ["mlp", "plain"])
def test_a_cell_sees_nine_cells_of_each_dilation(kind):
    head = head_of(kind, (2, 5)).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.abs_()  # no ReLU hides what is seen
    features = torch.ones(1, 6, 15, 15, dtype=torch.float64, requires_grad=True)
    head(features)[0, :, 7, 7].sum().backward()
    seen = {tuple(place) for place in features.grad[0].sum(0).nonzero().tolist()}
    offsets = [(r * y, r * x) for r in (2, 5) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    assert seen == {(7 + y, 7 + x) for y, x in offsets}


def test_dropout_silences_in_training_only():
    head = head_of("mlp", (1,), dropout=0.5)
    features = torch.randn(1, 6, 5, 5)
    assert torch.equal(head(features), head(features))
    head.train()
    assert not torch.equal(head(features), head(features))


def test_new_weights_keep_the_scale_and_start_with_no_opinion():
    head = DilatedHead(32, 21, (2,), "mlp", 128, 0.0, nn.Identity())
    head.reset(torch.Generator().manual_seed(1))
    branch = head.branches[0]
    assert branch.fc6.weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)
    assert branch.fc7.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert branch.fc8.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert all(not p.any() for name, p in head.named_parameters() if name.endswith("bias"))


def test_pool5_of_vgg16_keeps_the_resolution():
    features = torch.randn(1, 6, 9, 7)
    pooled = F.max_pool2d(features, 3, stride=1, padding=1)
    assert torch.equal(vgg16_pool5("deeplab_v2")(features), pooled)
    averaged = F.avg_pool2d(pooled, 3, stride=1, padding=1)
    assert torch.equal(vgg16_pool5("large_fov")(features), averaged)


@pytest.mark.parametrize(
    ("settings", "stride", "rates"),
    [
        ({}, 8, (12,)),
        ({}, 16, (6,)),
        ({"architecture": "deeplab_v2"}, 8, (6, 12, 18, 24)),
        ({"architecture": "deeplab_v2"}, 16, (3, 6, 9, 12)),
        ({"architecture": "deeplab_v2"}, 32, (2, 3, 4, 6)),
        ({"rates": [5]}, 32, (5,)),
    ],
)
def test_the_field_of_view_in_pixels_is_the_papers(settings, stride, rates):
    assert rates_at(SegmentationConfig(**settings), stride) == rates


@pytest.mark.parametrize(
    ("settings", "kind", "pools"),
    [
        ({"backbone": "vgg16_oaa"}, "mlp", 2),
        ({"backbone": "vgg16_oaa", "architecture": "deeplab_v2"}, "mlp", 1),
        ({"backbone": "vgg16_oaa", "out_index": 3}, "mlp", 0),
        ({"backbone": "resnet101"}, "plain", 0),
        ({"backbone": "resnet101", "head": "mlp"}, "mlp", 0),
        ({"backbone": "tf_efficientnet_lite0"}, "mlp", 0),
        ({"backbone": "tf_efficientnet_lite0", "head": "plain"}, "plain", 0),
    ],
)
def test_the_head_follows_the_trunk(settings, kind, pools):
    head = build_head(SegmentationConfig(head_channels=4, **settings), 16, 8, 3)
    convolutions = {"mlp": 3, "plain": 1}[kind]
    for branch in head.branches:
        assert sum(isinstance(m, nn.Conv2d) for m in branch.modules()) == convolutions
    kinds = (nn.MaxPool2d, nn.AvgPool2d)
    assert sum(isinstance(m, kinds) for m in head.modules()) == pools
