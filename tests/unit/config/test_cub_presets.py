"""The presets of configs/cub load, and say what they are made from."""

import dataclasses
from pathlib import Path

import pytest

from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.load import parse_config
from dist_oaa.models.optimisation import learning_rate

FOLDER = Path(__file__).parents[3] / "configs" / "cub"
SMALL = ["cam", "adl", "acol", "two_branch"]
NAMES = [f"{variant}_efficientnet_lite0" for variant in SMALL] + ["two_branch_vgg16_paper"]


def load(name: str) -> ClassifyConfig:
    path = str(FOLDER / f"{name}.yaml")
    return parse_config(ClassifyConfig, "oaa classify", ["--config", path])


def test_these_are_all():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_presets_load(name):
    config = load(name)
    assert config.run_dir == f"runs/cub/{name}"
    assert (config.data.root, config.data.layout) == ("data/CUB_200_2011", "cub")
    assert config.model.labels == "single"
    assert name.startswith(config.model.variant)
    assert 0 < config.data.holdout.fraction < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_presets_give_their_commands_result_weights_and_sources(name):
    header, _, body = (FOLDER / f"{name}.yaml").read_text().partition("\nrun_dir")
    assert f"oaa classify --config configs/cub/{name}.yaml" in header
    assert f"oaa localize --checkpoint runs/cub/{name} --run_dir" in header
    for word in ("Reproduces:", "Expected", "Weights:", "Source of each line:"):
        assert word in header
    lines = [line for line in body.splitlines()[1:] if not line.endswith(":")]
    bare = [line for line in lines if "#" not in line]
    assert bare == ["  root: data/CUB_200_2011", "  layout: cub"]


@pytest.mark.parametrize("variant", SMALL[1:])
def test_the_small_presets_differ_in_their_variant_alone(variant):
    """The rows of one table: what else differed would be taken for the method's merit."""
    plain, other = load("cam_efficientnet_lite0"), load(f"{variant}_efficientnet_lite0")
    model = dataclasses.replace(
        plain.model,
        variant=variant,
        erase=other.model.erase,
        two_branch=other.model.two_branch,
    )
    assert other == dataclasses.replace(plain, run_dir=other.run_dir, model=model)


def test_the_paper_s_rate_falls_every_forty_epochs():
    optim = load("two_branch_vgg16_paper").optim
    steps = -(-5_994 // optim.batch_size)
    rates = [learning_rate(optim, epoch * steps, optim.epochs * steps) for epoch in range(150)]
    assert rates[39] == pytest.approx(1e-3)
    assert [rates[epoch] for epoch in (40, 79, 80, 119, 120, 149)] == pytest.approx(
        [1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6]
    )
