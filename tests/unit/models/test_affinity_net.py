"""The affinity network: its levels are those of the plain trunks, its grid is the one asked for."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_oaa.config.affinity import AffinityConfig, AffinityNetConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.load import parse_config
from dist_oaa.config.model import ModelConfig
from dist_oaa.models.affinity_net import (
    build_affinity_net,
    build_levels_trunk,
    normalise_cells,
    to_grid,
)
from dist_oaa.models.backbones import build_trunk
from dist_oaa.models.optimisation import group_of

SMALL = ModelConfig(backbone="test_efficientnet", weights="none")
NET = AffinityNetConfig(channels=[4, 6, 8])


@pytest.mark.parametrize(
    ("backbone", "stride", "levels"),
    [
        ("test_efficientnet", 16, [1, 2, 4]),
        ("test_resnet", 8, [-3, -1]),
        ("test_convnext", 32, [0, -1]),
        ("vgg16_oaa", 8, [-4, -3, -2]),
    ],
)
def test_levels_are_the_outputs_of_the_plain_trunks(backbone, stride, levels):
    config = dataclasses.replace(SMALL, backbone=backbone, output_stride=stride)
    trunk = build_levels_trunk(config, levels).eval()
    state = trunk.state_dict()
    images = torch.randn(1, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    for level, found, channels in zip(levels, trunk(images), trunk.level_channels, strict=True):
        plain = build_trunk(dataclasses.replace(config, out_index=level)).eval()
        plain.load_state_dict({name: state[name] for name in plain.state_dict()})
        torch.testing.assert_close(found, plain(images))
        assert found.shape[1] == channels


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_grid(stride):
    config = dataclasses.replace(NET, stride=stride)
    network, _ = build_affinity_net(SMALL, config, 0)
    network.eval()
    assert network.multiple == max(16, stride)
    features = network(torch.randn(2, 3, 96, 64))
    assert features.shape == (2, 18, 96 // stride, 64 // stride)
    assert (features >= -1).all(), "ELU"


def test_cells_are_normalised_over_their_channels():
    level = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1)) * 50 + 7
    x = level.numpy()
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(normalise_cells(level).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_finer_levels_are_averaged_and_coarser_ones_interpolated():
    fine = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert to_grid(fine, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    coarse = torch.tensor([[[[0.0, 4.0]]]])
    assert to_grid(coarse, (1, 4)).flatten().tolist() == [0, 1, 3, 4]


def test_new_weights_depend_on_the_seed_alone():
    before = torch.random.get_rng_state()
    one, other = (build_affinity_net(SMALL, NET, 7)[0].state_dict() for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], other[name]) for name in one)
    third = build_affinity_net(SMALL, NET, 8)[0].state_dict()
    assert not torch.equal(one["mix.weight"], third["mix.weight"])


def test_frozen_batch_norm_and_groups():
    network, _ = build_affinity_net(SMALL, NET, 0)
    norms = [m for m in network.trunk.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    network.train()
    assert norms
    assert not any(norm.training or norm.weight.requires_grad for norm in norms)
    free, _ = build_affinity_net(dataclasses.replace(SMALL, freeze_batch_norm=False), NET, 0)
    assert all(m.training for m in free.modules())
    groups = {group_of(name) for name, _ in network.named_parameters()}
    assert groups == {"trunk.weight", "trunk.bias", "head.weight"}


@pytest.mark.parametrize("levels", [[2, 1], [-1, -2], [1, 9], [1, -4]])
def test_impossible_levels(levels):
    config = AffinityNetConfig(levels=levels, channels=[4] * len(levels))
    with pytest.raises(UserError, match=r"affinity\.levels|model\.out_index"):
        build_affinity_net(SMALL, config, 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("levels", []), ("channels", [64]), ("channels", [4, 0, 4]), ("stride", 12), ("radius", 0),
     ("shards", 0), ("gallery", -1)],
)  # fmt: skip
def test_settings_out_of_range(key, value):
    with pytest.raises(ValueError, match=rf"^affinity\.{key} is "):
        AffinityNetConfig(**{key: value})


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vgg16_psa"])
def test_presets_build(name):
    path = Path(__file__).parents[3] / "configs" / "voc12" / f"affinity_{name}.yaml"
    config = parse_config(AffinityConfig, "oaa affinity", ["--config", str(path)])
    assert config.run_dir == f"runs/voc12/affinity_{name}"
    head, _, body = path.read_text().partition("\nrun_dir")
    assert f"oaa affinity --config configs/voc12/affinity_{name}.yaml" in head.replace("\\\n#", "")
    settings = [line for line in body.splitlines()[1:] if not line.endswith(":")]
    assert [line for line in settings if "#" not in line] == ["  root: data/VOCdevkit/VOC2012"]
    network, _ = build_affinity_net(
        dataclasses.replace(config.model, weights="none"), config.affinity, 0
    )
    assert network.multiple % config.affinity.stride == 0
    assert network.mix.out_channels == 448
