"""Parameter groups and learning-rate schedules."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dist_oaa.config.model import ModelConfig, OptimConfig
from dist_oaa.models.classifier import build_classifier
from dist_oaa.models.optimisation import build_optimizer, learning_rate, set_learning_rate


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Conv2d(4, 2, 1))


def names_by_group(model, optimizer):
    names = {id(p): n for n, p in model.named_parameters()}
    return {g["name"]: [names[id(p)] for p in g["params"]] for g in optimizer.param_groups}


def test_groups_hold_what_their_names_say():
    model = Toy()
    optimizer = build_optimizer(model, OptimConfig(lr=0.1, multipliers=[1, 2, 10, 20]))
    assert names_by_group(model, optimizer) == {
        "trunk.weight": ["trunk.0.weight", "trunk.1.weight"],
        "trunk.bias": ["trunk.0.bias", "trunk.1.bias"],
        "head.weight": ["head.0.weight"],
        "head.bias": ["head.0.bias"],
    }
    assert [g["multiplier"] for g in optimizer.param_groups] == [1, 2, 10, 20]
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.1, 0.2, 1.0, 2.0])
    assert [g["weight_decay"] for g in optimizer.param_groups] == [5e-4] * 4
    assert [g["momentum"] for g in optimizer.param_groups] == [0.9] * 4


def test_biases_without_decay():
    optimizer = build_optimizer(Toy(), OptimConfig(weight_decay=2e-4, decay_biases=False))
    assert [g["weight_decay"] for g in optimizer.param_groups] == [2e-4, 0, 2e-4, 0]


def test_frozen_parameters_and_empty_groups_are_left_out():
    model = Toy()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in ("trunk.0.weight", "head.0.bias"))
    optimizer = build_optimizer(model, OptimConfig(multipliers=[1, 2, 10, 20]))
    assert names_by_group(model, optimizer) == {
        "trunk.weight": ["trunk.0.weight"],
        "head.bias": ["head.0.bias"],
    }
    assert [g["multiplier"] for g in optimizer.param_groups] == [1, 20]


def test_every_trainable_parameter_of_a_classifier_is_in_one_group():
    config = ModelConfig(backbone="mobilenetv3_small_050", weights="none", head_channels=4)
    model, _ = build_classifier(config, 3, seed=0)
    groups = names_by_group(model, build_optimizer(model, OptimConfig()))
    listed = [name for names in groups.values() for name in names]
    assert sorted(listed) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    assert not any("bn" in name for name in listed)
    assert all(name.startswith("head.") for name in groups["head.weight"] + groups["head.bias"])
    assert all(name.endswith(".bias") for name in groups["trunk.bias"])


def test_compiled_and_wrapped_models_have_the_same_groups():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    for wrapped in (torch.compile(Toy()), Wrapper(Toy()), torch.compile(Wrapper(Toy()))):
        optimizer = build_optimizer(wrapped, OptimConfig())
        assert [len(g["params"]) for g in optimizer.param_groups] == [2, 2, 1, 1]


def test_one_sgd_step_by_hand():
    model = Toy()
    optimizer = build_optimizer(
        model, OptimConfig(lr=0.1, weight_decay=0.5, multipliers=[1, 2, 10, 20])
    )
    bias = model.head[0].bias
    with torch.no_grad():
        bias.fill_(1.0)
    bias.grad = torch.full_like(bias, 3.0)
    optimizer.step()
    # rate 0.1 * 20 times (gradient 3 + decay 0.5 * 1)
    assert bias.tolist() == pytest.approx([1 - 2 * 3.5] * 2)


def test_adamw():
    optimizer = build_optimizer(Toy(), OptimConfig(optimizer="adamw", lr=1e-4))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([1e-4, 2e-4, 1e-3, 2e-3])


def test_setting_the_rate_keeps_the_multipliers_through_a_checkpoint():
    optimizer = build_optimizer(Toy(), OptimConfig(lr=0.1, multipliers=[1, 2, 10, 20]))
    state = optimizer.state_dict()
    fresh = build_optimizer(Toy(), OptimConfig(lr=0.7, multipliers=[1, 2, 10, 20]))
    fresh.load_state_dict(state)
    set_learning_rate(fresh, 0.01)
    assert [g["lr"] for g in fresh.param_groups] == pytest.approx([0.01, 0.02, 0.1, 0.2])
    assert [g["name"] for g in fresh.param_groups] == [g["name"] for g in state["param_groups"]]


@pytest.mark.parametrize(
    ("settings", "step", "total", "expected"),
    [
        ({"schedule": "constant"}, 0, 100, 0.5),
        ({"schedule": "constant"}, 99, 100, 0.5),
        ({"schedule": "poly", "power": 1.0}, 0, 100, 0.5),
        ({"schedule": "poly", "power": 1.0}, 25, 100, 0.375),
        ({"schedule": "poly", "power": 2.0}, 50, 100, 0.125),
        ({"schedule": "poly", "power": 0.9}, 99, 100, 0.5 * 0.01**0.9),
        ({"schedule": "poly"}, 100, 100, 0.0),
        ({"schedule": "poly"}, 130, 100, 0.0),
        # the papers: a tenth after 20,000 of 30,000
        ({"schedule": "step", "milestones": [0.66667]}, 19_999, 30_000, 0.5),
        ({"schedule": "step", "milestones": [0.66667]}, 20_000, 30_000, 0.05),
        ({"schedule": "step", "milestones": [0.5, 0.75]}, 49, 100, 0.5),
        ({"schedule": "step", "milestones": [0.5, 0.75]}, 50, 100, 0.05),
        ({"schedule": "step", "milestones": [0.75, 0.5]}, 75, 100, 0.005),
        # warmup from a tenth: 0.1, 0.325, 0.55, 0.775, then 1
        ({"schedule": "constant", "warmup_steps": 4}, 0, 100, 0.05),
        ({"schedule": "constant", "warmup_steps": 4}, 1, 100, 0.1625),
        ({"schedule": "constant", "warmup_steps": 4}, 2, 100, 0.275),
        ({"schedule": "constant", "warmup_steps": 4}, 4, 100, 0.5),
        ({"schedule": "poly", "power": 1.0, "warmup_steps": 50}, 25, 100, 0.375 * 0.55),
    ],
)
def test_rates_by_hand(settings, step, total, expected):
    config = OptimConfig(lr=0.5, **settings)
    assert learning_rate(config, step, total) == pytest.approx(expected, rel=1e-12)


@given(
    st.sampled_from(["constant", "step", "poly"]),
    st.integers(1, 500),
    st.integers(0, 600),
    st.integers(0, 50),
)
def test_rates_are_within_zero_and_the_base_rate(schedule, total, step, warmup):
    config = OptimConfig(lr=0.3, schedule=schedule, warmup_steps=warmup)
    rate = learning_rate(config, step, total)
    assert 0 <= rate <= 0.3
    if step >= warmup:
        assert learning_rate(config, step + 1, total) <= rate
