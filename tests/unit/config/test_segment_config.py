"""Settings of `oaa segment`: defaults, refusals, and the presets."""

from pathlib import Path

import pytest

from dist_oaa.config.data import AugmentConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dump_config, parse_config
from dist_oaa.config.segment import (
    SegmentConfig,
    SegmentDataConfig,
    SegmentLossConfig,
    ValidationConfig,
)

FOLDER = Path(__file__).parents[3] / "configs" / "voc12"
PRESETS = ("efficientnet_lite0", "large_fov_vgg16_paper", "deeplab_v2_resnet101_paper")


def parse(*argv: str) -> SegmentConfig:
    return parse_config(SegmentConfig, "oaa segment", argv)


def test_one_augmentation_changed_leaves_the_others():
    config = parse("--data.augment.crop", "65", "--data.fraction", "0.5")
    assert config.data.augment == AugmentConfig(
        scale=[0.5, 1.5], crop=65, jitter_probability=0.0, flip=0.5
    )
    assert (config.data.fraction, config.data.pixel_fraction) == (0.5, 0.0)
    assert (config.optim.schedule, config.optim.power) == ("poly", 0.9)
    assert config.optim.multipliers == [1.0, 2.0, 10.0, 20.0]


def test_saved_settings_come_back(tmp_path):
    config = parse("--data.resize", "short_side", "--network.backbone", "resnet18")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert parse("--config", str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("kind", "values", "key"),
    [
        (SegmentDataConfig, {"fraction": 0.0}, r"data\.fraction is 0"),
        (SegmentDataConfig, {"fraction": 1.5}, r"data\.fraction is 1\.5"),
        (SegmentDataConfig, {"pixel_fraction": -0.1}, r"data\.pixel_fraction is -0\.1"),
        (SegmentDataConfig, {"augment": AugmentConfig(crop=5)}, r"data\.augment\.crop is 5 pix"),
        (SegmentDataConfig, {"size": 3}, r"data\.size is 3"),
        (SegmentLossConfig, {"shards": 0}, r"segment\.shards is 0"),
        (ValidationConfig, {"images": -1}, r"evaluate\.images is -1"),
        (ValidationConfig, {"tile": 100}, r"evaluate\.tile is 100"),
    ],
)
def test_values_out_of_range(kind, values, key):
    with pytest.raises(ValueError, match=key + r".*, expected"):
        kind(**values)


def test_unknown_and_wrong_keys_are_named():
    with pytest.raises(UserError, match=r"data\.pixel_fractoin.*data\.pixel_fraction"):
        parse("--data.pixel_fractoin", "0.5")
    with pytest.raises(UserError, match=r"data\.resize is 'square'.*expected one of"):
        parse("--data.resize", "square")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_and_say_what_they_are(name):
    path = FOLDER / f"segment_{name}.yaml"
    config = parse("--config", str(path))
    assert config.run_dir == f"runs/voc12/segment_{name}"
    header, _, body = path.read_text().partition("\nrun_dir")
    for word in (f"--config configs/voc12/{path.name}", "Expected:", "Weights:", "Source of each"):
        assert word in header
    for line in body.splitlines()[1:]:
        assert line.endswith(":") or "#" in line or "root:" in line


def test_the_papers_recipes_stop_at_the_papers_steps():
    for name, steps in (("large_fov_vgg16", 15_000), ("deeplab_v2_resnet101", 20_000)):
        config = parse("--config", str(FOLDER / f"segment_{name}_paper.yaml"))
        per_epoch = -(-10_582 // config.optim.batch_size)
        assert (config.optim.epochs - 1) * per_epoch < steps <= config.optim.epochs * per_epoch
        assert config.optim.max_steps == steps
