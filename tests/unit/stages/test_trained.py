"""A classifier from a run directory, and what is said of folders that hold none."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.data import AugmentConfig, DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.integral import IntegralConfig
from dist_oaa.config.load import dump_config
from dist_oaa.config.model import EraseConfig, ModelConfig
from dist_oaa.models.classifier import build_classifier
from dist_oaa.runtime.checkpoint import Checkpoint, save_checkpoint
from dist_oaa.runtime.rundir import save_settings
from dist_oaa.stages.trained import load_classifier, trained_data

# `timm` would be looked up in a hub if loading asked for it.
MODEL = ModelConfig(
    backbone="test_efficientnet", weights="timm", head_channels=8, normalise="caffe"
)
DATA = DataConfig(root="somewhere", size=48, augment=AugmentConfig(scale=[0.5, 2.0]))
NAMES = ("cat", "dining table", "dog")


def finished_run(folder: Path, config: ModelConfig) -> torch.nn.Module:
    """Leaves what a run leaves of its network."""
    model, _ = build_classifier(dataclasses.replace(config, weights="none"), len(NAMES), seed=5)
    save_settings(folder, dump_config(ClassifyConfig(model=config, data=DATA)), NAMES)
    state = Checkpoint(model.state_dict(), {"state": {}, "param_groups": []}, {"step": 37})
    save_checkpoint(folder / "checkpoints", "step-00000037-g000001", state, 1)
    return model.eval()


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("trained") / "run"
    return folder, finished_run(folder, MODEL)


@pytest.fixture
def run_dir(original, tmp_path) -> Path:
    return Path(shutil.copytree(original[0], tmp_path / "copy"))


def test_the_network_is_the_one_that_was_saved(original):
    folder, model = original
    trained = load_classifier(folder)
    assert (trained.config, trained.data) == (MODEL, DATA)
    assert (trained.class_names, trained.step, trained.activation) == (NAMES, 37, "cam")
    assert not trained.model.training
    assert trained.model.normalisation == model.normalisation
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(trained.model(images).cam_BCHW, model(images).cam_BCHW)


@pytest.mark.parametrize("variant", get_args(get_type_hints(ModelConfig)["variant"]))
def test_every_variant_comes_back(tmp_path, variant):
    config = dataclasses.replace(MODEL, variant=variant, erase=EraseConfig(seenet_low=0.2))
    model = finished_run(tmp_path / "run", config)
    trained = load_classifier(tmp_path / "run")
    assert trained.config == config
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(trained.model(images).cam_BCHW, model(images).cam_BCHW)


def test_an_integral_model_is_read_through_the_sigmoid(run_dir):
    saved = dump_config(IntegralConfig(model=MODEL, data=DATA))
    save_settings(run_dir, saved, NAMES)
    trained = load_classifier(run_dir)
    assert (trained.config, trained.data, trained.activation) == (MODEL, DATA, "sigmoid")


def test_the_second_branch_is_read_through_the_sigmoid(tmp_path):
    finished_run(tmp_path / "run", dataclasses.replace(MODEL, variant="two_branch"))
    trained = load_classifier(tmp_path / "run")
    assert trained.activation == "sigmoid"
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    predicted = trained.model(images)
    features_BDHW = trained.model.trunk(images)
    assert torch.equal(predicted.cam_BCHW, trained.model.integral_head(features_BDHW))
    first_BCHW = trained.model.head(features_BDHW)
    torch.testing.assert_close(predicted.logits_BC, first_BCHW.mean(dim=(2, 3)))


def test_the_data_settings_alone(original):
    assert trained_data(original[0]) == DATA


def refused(run_dir: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        load_classifier(run_dir)
    assert "\n" not in str(caught.value)


def test_no_run_directory(tmp_path):
    refused(tmp_path / "nowhere", "nowhere is no run directory: it has no config.yaml")
    refused(tmp_path, "is no run directory")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("data: {}\n", "config.yaml describes no classifier"),
        ("- 1\n", "config.yaml describes no classifier"),
        ("model: [\n", "config.yaml is no valid YAML"),
        ("data: {}\nmodel: {bakcbone: x}\n", "model in .*config.yaml cannot be understood.*bakcb"),
        ("model: {}\ndata: {size: 3}\n", "data in .*config.yaml.*data.size is 3"),
        ("model: {}\ndata: 7\n", "data in .*cannot be understood"),
        ("data: {}\nmodel: {backbone: nothing}\n", "model.backbone is 'nothing'"),
    ],
)
def test_settings_of_something_else(run_dir, text, match):
    (run_dir / "config.yaml").write_text(text)
    refused(run_dir, match)


def test_no_classes(run_dir):
    (run_dir / "classes.txt").write_text("\n")
    refused(run_dir, "classes.txt is empty")
    (run_dir / "classes.txt").unlink()
    refused(run_dir, "classes.txt cannot be read.*No such file")


def test_classes_that_do_not_fit_the_weights(run_dir):
    (run_dir / "classes.txt").write_text("cat\ndog\n")
    refused(run_dir, "does not fit the network .* 2 classes of classes.txt")


def test_a_run_that_has_not_come_to_a_checkpoint(run_dir):
    (run_dir / "checkpoints/latest.json").unlink()
    refused(run_dir, "holds no complete checkpoint")


def test_a_damaged_checkpoint(run_dir):
    name = json.loads((run_dir / "checkpoints/latest.json").read_text())["name"]
    with open(run_dir / "checkpoints" / name / "model.safetensors", "r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x00\x01\x02\x03")
    refused(run_dir, "model.safetensors is damaged")


def test_the_best_checkpoint_and_one_by_name(run_dir):
    """Each with its own weights, beside the published one of another step."""
    folder, weights = run_dir / "checkpoints", load_classifier(run_dir).model.state_dict()
    plain = {"state": {}, "param_groups": []}
    for step, score in ((41, 0.9), (45, 0.2), (47, None)):
        model = {name: torch.full_like(value, step) for name, value in weights.items()}
        state = Checkpoint(model, plain, {"step": step}, 0, "cumulative/recall", score)
        save_checkpoint(folder, f"step-{step:08d}-g000001", state, keep=2)
    chosen = {"": 47, "checkpoints/best": 41, "checkpoints/step-00000045-g000001": 45}
    for path, step in chosen.items():
        trained = load_classifier(run_dir / path)
        assert (trained.step, trained.data, trained.class_names) == (step, DATA, NAMES)
        assert all((value == step).all() for value in trained.model.state_dict().values())
    refused(folder / "step-00000001", "step-00000001 is no checkpoint, expected a folder in")
    (folder / "best.json").unlink()
    refused(folder / "best", "set checkpoint.keep_best")
