"""Building the classifier: weights from the seed, frozen batch norm, normalisation."""

import random

import pytest
import torch
from torch import nn

from dist_oaa.config.model import ModelConfig
from dist_oaa.models.classifier import build_classifier
from dist_oaa.models.normalisation import NORMALISATIONS, Normalisation

SMALL = {"backbone": "mobilenetv3_small_050", "weights": "none", "head_channels": 8}


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
