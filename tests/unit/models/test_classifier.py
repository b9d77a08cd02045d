"""The classifier with its online CAM.

Legend: B images, 3 colours, C classes, H x W pixels or cells, 2 = (height, width).
"""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dist_oaa.config.model import ModelConfig
from dist_oaa.models.backbones import Trunk
from dist_oaa.models.classifier import (
    OnlineCAMClassifier,
    build_classifier,
    masked_mean,
    valid_cells,
)
from dist_oaa.models.normalisation import NORMALISATIONS, Normalisation

SMALL = {"backbone": "mobilenetv3_small_050", "weights": "none", "head_channels": 8}


def toy(stride=1, classes=3, layers=0, seed=0):
    """A trunk that looks at `stride` x `stride` pixels a cell, without overlap."""
    generator = torch.Generator().manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(3, 4, stride, stride), nn.ReLU())
    model = OnlineCAMClassifier(Trunk(body, 4, stride), classes, 5, layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model


@pytest.mark.parametrize(
    ("valid", "pixels", "cells", "expected"),
    [
        (224, 224, 28, 28),  # nothing is padded
        (160, 224, 28, 20),  # exactly 20 cells
        (163, 224, 28, 20),  # 20.375
        (164, 224, 28, 21),  # 20.5: half a cell counts
        (3, 224, 28, 1),  # 0.375, but at least 1
        (1, 500, 7, 1),
        (299, 300, 19, 19),  # a stride that does not divide the size
        (150, 300, 19, 10),  # 9.5
    ],
)
def test_valid_cells_by_hand(valid, pixels, cells, expected):
    out = valid_cells(torch.tensor([[valid, pixels], [pixels, valid]]), (pixels,) * 2, (cells,) * 2)
    assert out.dtype == torch.int64
    assert out.tolist() == [[expected, cells], [cells, expected]]


@given(st.integers(1, 64), st.integers(1, 2000), st.data())
def test_valid_cells_stay_within_the_map_and_near_the_share(cells, pixels, data):
    valid = data.draw(st.integers(1, pixels))
    out = valid_cells(torch.tensor([[valid, pixels]]), (pixels, pixels), (cells, cells))
    rows, columns = out[0].tolist()
    assert 1 <= rows <= cells
    assert columns == cells
    assert rows == 1 or abs(rows - valid * cells / pixels) <= 0.5


def test_gap_by_hand():
    cam_BCHW = torch.tensor([[[[1.0, 2.0, 90.0], [3.0, 6.0, 90.0], [90.0, 90.0, 90.0]]]])
    whole = masked_mean(cam_BCHW, None)
    assert whole.item() == pytest.approx((12 + 5 * 90) / 9)
    assert masked_mean(cam_BCHW, torch.tensor([[2, 2]])).tolist() == [[3.0]]
    assert masked_mean(cam_BCHW, torch.tensor([[1, 2]])).tolist() == [[1.5]]
    assert masked_mean(cam_BCHW, torch.tensor([[1, 1]])).tolist() == [[1.0]]


def test_gap_ignores_what_is_not_finite_in_the_padding():
    cam_BCHW = torch.ones(1, 2, 3, 3)
    cam_BCHW[..., 2] = torch.inf
    cam_BCHW.requires_grad_()
    score_BC = masked_mean(cam_BCHW, torch.tensor([[3, 2]]))
    score_BC.sum().backward()
    assert score_BC.tolist() == [[1.0, 1.0]]
    assert cam_BCHW.grad[0, 0].tolist() == [[pytest.approx(1 / 6)] * 2 + [0.0]] * 3


def test_gap_sums_in_float32():
    cam_BCHW = torch.full((1, 1, 64, 64), 1.001, dtype=torch.float16)
    score_BC = masked_mean(cam_BCHW, torch.tensor([[64, 64]]))
    assert score_BC.dtype == torch.float32
    assert score_BC.item() == pytest.approx(cam_BCHW[0, 0, 0, 0].item(), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_padding_changes_no_score_of_a_pointwise_network(cells, stride, seed):
    """Cells see their own pixels only, so a padded batch must score as the single images do."""
    model = toy(stride=stride, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(3, h * stride, w * stride, generator=generator) for h, w in cells]
    height, width = (max(c[axis] for c in cells) * stride for axis in (0, 1))
    padded_B3HW = torch.full((len(images), 3, height, width), 7.0)
    for padded, image in zip(padded_B3HW, images, strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = image
    extent_B2 = torch.tensor([image.shape[1:] for image in images])
    with torch.no_grad():
        logits_BC, cam_BCHW, _ = model(padded_B3HW, extent_B2)
        for index, image in enumerate(images):
            alone_BC, alone_BCHW, _ = model(image[None])
            rows, columns = cells[index]
            torch.testing.assert_close(logits_BC[index], alone_BC[0])
            torch.testing.assert_close(cam_BCHW[index, :, :rows, :columns], alone_BCHW[0])


def test_no_extent_is_the_full_extent():
    model = toy(stride=2, layers=2)
    images_B3HW = torch.randn(2, 3, 10, 14)
    with torch.no_grad():
        logits_BC, cam_BCHW, _ = model(images_B3HW)
        full_BC, _, _ = model(images_B3HW, torch.tensor([[10, 14], [10, 14]]))
    assert torch.equal(logits_BC, full_BC)
    torch.testing.assert_close(logits_BC, cam_BCHW.mean(dim=(2, 3)))


def test_cam_is_raw_and_keeps_its_padded_cells():
    model = toy(layers=1)
    images_B3HW = torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        _, cam_BCHW, _ = model(images_B3HW, torch.tensor([[2, 3]]))
        _, whole_BCHW, _ = model(images_B3HW)
    assert torch.equal(cam_BCHW, whole_BCHW)
    assert cam_BCHW.min() < 0


@pytest.mark.parametrize(("layers", "convolutions"), [(0, 1), (1, 2), (3, 4)])
def test_head_layers(layers, convolutions):
    model = toy(layers=layers)
    found = [m for m in model.head if isinstance(m, nn.Conv2d)]
    assert len(found) == convolutions
    assert [m.kernel_size for m in found] == [(3, 3)] * layers + [(1, 1)]
    assert sum(isinstance(m, nn.ReLU) for m in model.head) == layers
    _, cam_BCHW, _ = model(torch.zeros(2, 3, 5, 7))
    assert cam_BCHW.shape == (2, 3, 5, 7)


def test_autocast_gives_float32_scores_of_a_low_precision_map():
    model = toy(layers=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BC, cam_BCHW, _ = model(torch.randn(2, 3, 6, 6), torch.tensor([[6, 3], [2, 6]]))
    assert cam_BCHW.dtype == torch.bfloat16
    assert logits_BC.dtype == torch.float32
    torch.testing.assert_close(logits_BC[0], cam_BCHW[0, :, :6, :3].float().mean(dim=(1, 2)))


def test_forward_compiles_without_a_graph_break():
    model = toy(layers=1)
    images_B3HW, extent_B2 = torch.randn(2, 3, 6, 8), torch.tensor([[6, 3], [2, 8]])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images_B3HW, extent_B2), model(images_B3HW, extent_B2))


def test_a_new_head_is_small_and_without_bias():
    model, _ = build_classifier(
        ModelConfig(**{**SMALL, "head_channels": 64}), num_classes=20, seed=3
    )
    weights = torch.cat([p.flatten() for n, p in model.head.named_parameters() if "weight" in n])
    assert weights.std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(weights.mean().item()) < 1e-4
    for name, parameter in model.head.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0


def test_new_weights_are_a_function_of_the_seed_alone():
    config = ModelConfig(**SMALL)
    torch.manual_seed(11)
    first, _ = build_classifier(config, 4, seed=5)
    torch.manual_seed(22)
    torch.rand(17)
    again, _ = build_classifier(config, 4, seed=5)
    other, _ = build_classifier(config, 4, seed=6)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first.head.class_aware.weight, other.head.class_aware.weight)


def test_the_head_is_drawn_from_the_seed_and_not_after_the_trunk():
    model, _ = build_classifier(ModelConfig(**SMALL, head_layers=1), 4, seed=5)
    generator = torch.Generator().manual_seed(5)
    for layer in (model.head.conv1, model.head.class_aware):
        drawn = torch.empty_like(layer.weight).normal_(0, 0.01, generator=generator)
        assert torch.equal(layer.weight, drawn)


def test_building_leaves_every_global_random_state_untouched():
    torch.manual_seed(1)
    states = torch.get_rng_state(), random.getstate()
    build_classifier(ModelConfig(**SMALL), 4, seed=5)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def norms(model):
    return [m for m in model.trunk.modules() if isinstance(m, nn.BatchNorm2d)]


def test_frozen_batch_norm_stays_frozen():
    model, _ = build_classifier(ModelConfig(**SMALL), 4, seed=0)
    assert len(norms(model)) == 34
    assert not any(m.training for m in norms(model))
    before = [(m.running_mean.clone(), m.running_var.clone()) for m in norms(model)]
    assert model.train() is model
    assert model.training
    assert model.trunk.training
    assert not any(m.training for m in norms(model))
    assert not any(p.requires_grad for m in norms(model) for p in m.parameters())
    model(torch.randn(2, 3, 32, 32))[0].sum().backward()
    for layer, (mean, variance) in zip(norms(model), before, strict=True):
        assert torch.equal(layer.running_mean, mean)
        assert torch.equal(layer.running_var, variance)
    model.eval().train()
    assert not any(m.training for m in norms(model))


def test_batch_norm_trains_where_it_is_not_frozen():
    model, _ = build_classifier(ModelConfig(**SMALL, freeze_batch_norm=False), 4, seed=0)
    assert all(m.training for m in norms(model))
    assert all(p.requires_grad for m in norms(model) for p in m.parameters())
    before = norms(model)[0].running_mean.clone()
    model(torch.randn(2, 3, 32, 32) + 3)
    assert not torch.equal(norms(model)[0].running_mean, before)


def test_the_report_of_the_weights_comes_with_the_classifier():
    model, report = build_classifier(ModelConfig(**SMALL), 4, seed=0)
    assert report.source == "none"
    assert report.missing == list(model.trunk.body.state_dict())


@pytest.mark.parametrize(
    ("backbone", "normalise", "expected"),
    [
        ("mobilenetv3_small_050", "auto", NORMALISATIONS["imagenet"]),
        ("tf_efficientnet_lite0", "auto", NORMALISATIONS["half"]),
        ("tf_efficientnet_lite0", "imagenet", NORMALISATIONS["imagenet"]),
        ("mobilenetv3_small_050", "half", NORMALISATIONS["half"]),
        ("mobilenetv3_small_050", "caffe", NORMALISATIONS["caffe"]),
    ],
)
def test_normalisation_follows_the_settings(backbone, normalise, expected):
    config = ModelConfig(**{**SMALL, "backbone": backbone}, normalise=normalise)
    model, _ = build_classifier(config, 4, seed=0)
    assert model.normalisation == expected
    assert isinstance(model.normalisation, Normalisation)
