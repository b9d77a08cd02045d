"""The presets of configs/voc12 load, and say what they are made from."""

import dataclasses
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.integral import IntegralConfig
from dist_oaa.config.load import parse_config
from dist_oaa.models.backbones import build_trunk
from dist_oaa.models.optimisation import learning_rate

FOLDER = Path(__file__).parents[3] / "configs" / "voc12"
NAMES = ["vgg16_paper", "vgg16_caffe", "vgg16_pytorch", "resnet50", "efficientnet_lite0"]


def load(name):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(ClassifyConfig)
    namespace = parser.instantiate(
        parser.parse_args(["--config", str(FOLDER / f"oaa_{name}.yaml")])
    )
    return ClassifyConfig(**{k: v for k, v in vars(namespace).items() if k != "config"})


@pytest.mark.parametrize("name", NAMES)
def test_presets_load_and_build_their_trunk(name):
    config = load(name)
    assert config.run_dir == f"runs/voc12/oaa_{name}"
    assert config.data.root == "data/VOCdevkit/VOC2012"
    assert config.data.split == ("train" if name == "efficientnet_lite0" else "train_aug")
    trunk = build_trunk(config.model)
    assert trunk.stride == config.model.output_stride


@pytest.mark.parametrize("name", NAMES)
def test_presets_give_their_command_result_and_weights(name):
    header = (FOLDER / f"oaa_{name}.yaml").read_text().partition("\nrun_dir")[0]
    assert f"classify --config configs/voc12/oaa_{name}.yaml" in header
    for word in ("Reproduces:", "Expected", "Weights:", "Source of each line:"):
        assert word in header
    if "vgg16" in name:
        assert "CAM 36.7 / 32.7, OAA 52.3 / 37.4" in header.replace("\n#", "")


@pytest.mark.parametrize("name", NAMES)
def test_every_line_of_a_preset_gives_its_source(name):
    body = (FOLDER / f"oaa_{name}.yaml").read_text().partition("\nrun_dir")[2]
    settings = [line for line in body.splitlines()[1:] if not line.endswith(":")]
    bare = [line for line in settings if "#" not in line]
    assert bare == ["  root: data/VOCdevkit/VOC2012"]


@pytest.mark.parametrize("name", ["vgg16_paper", "efficientnet_lite0"])
def test_presets_of_the_integral_model_load(name):
    path = FOLDER / f"integral_{name}.yaml"
    config = parse_config(IntegralConfig, "oaa integral", ["--config", str(path)])
    classifier = load(name)
    assert config.run_dir == f"runs/voc12/integral_{name}"
    assert config.integral.loss == "hybrid"
    assert dataclasses.replace(config.model, normalise="auto") == dataclasses.replace(
        classifier.model, normalise="auto"
    )
    for line in path.read_text().partition("\nrun_dir")[2].splitlines()[1:]:
        assert line.endswith(":") or "#" in line or "root:" in line


@pytest.mark.parametrize("change", [("seed: 0", "sede: 1"), ("  lr:", "  rate:")])
def test_an_unknown_key_is_refused(tmp_path, change):
    text = (FOLDER / "oaa_resnet50.yaml").read_text() + "seed: 0\n"
    file = tmp_path / "preset.yaml"
    file.write_text(text.replace(*change))
    with pytest.raises(UserError, match=change[1].strip(" :1")):
        parse_config(ClassifyConfig, "oaa classify", ["--config", str(file)])


@pytest.mark.parametrize("name", ["vgg16_paper", "vgg16_caffe"])
def test_the_rate_falls_after_20000_of_30000_steps(name):
    optim = load(name).optim
    steps_per_epoch = -(-10_582 // optim.batch_size)
    assert optim.epochs * steps_per_epoch >= optim.max_steps == 30_000
    assert learning_rate(optim, 19_999, 30_000) == pytest.approx(1e-3)
    assert learning_rate(optim, 20_000, 30_000) == pytest.approx(1e-4)


def test_the_pytorch_codes_rate_falls_with_its_tenth_epoch():
    optim = load("vgg16_pytorch").optim
    steps_per_epoch = -(-10_582 // optim.batch_size)
    total = optim.epochs * steps_per_epoch
    assert learning_rate(optim, 10 * steps_per_epoch - 1, total) == pytest.approx(1e-3)
    assert learning_rate(optim, 10 * steps_per_epoch, total) == pytest.approx(1e-4)
