"""A segmentation network from a run directory, and what is said of folders that hold none."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dump_config
from dist_oaa.config.segment import SegmentConfig, SegmentDataConfig
from dist_oaa.config.segmentation import SegmentationConfig
from dist_oaa.models.segmentation.build import build_segmenter
from dist_oaa.runtime.checkpoint import Checkpoint, save_checkpoint
from dist_oaa.runtime.rundir import save_settings
from dist_oaa.stages.trained import load_classifier
from dist_oaa.stages.trained_segmenter import load_segmenter, segmenter_data

# `timm` would be looked up in a hub if loading asked for it.
NETWORK = SegmentationConfig(
    backbone="test_efficientnet", weights="timm", output_stride=16, head_channels=8
)
DATA = SegmentDataConfig(root="somewhere", resize="short_side", size=48, pixel_fraction=0.5)
NAMES = ("cat", "dining table", "dog")
LINES = ("supervision: label images of x for 5 of 10 images", "TRUE MASKS of 5 of 10 images")


def finished_run(folder: Path, config: SegmentationConfig) -> torch.nn.Module:
    """Leaves what a run leaves of its network."""
    network, _ = build_segmenter(dataclasses.replace(config, weights="none"), len(NAMES), seed=5)
    save_settings(folder, dump_config(SegmentConfig(network=config, data=DATA)), NAMES)
    state = Checkpoint(network.state_dict(), {"state": {}, "param_groups": []}, {"step": 37})
    save_checkpoint(folder / "checkpoints", "step-00000037-g000001", state, 1)
    (folder / "supervision.json").write_text(json.dumps({"supervision": LINES}))
    return network.eval()


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("segmenter") / "run"
    return folder, finished_run(folder, NETWORK)


@pytest.fixture
def run_dir(original, tmp_path) -> Path:
    return Path(shutil.copytree(original[0], tmp_path / "copy"))


def test_the_network_is_the_one_that_was_saved(original):
    folder, network = original
    trained = load_segmenter(folder)
    assert (trained.config, trained.data) == (NETWORK, DATA)
    assert (trained.class_names, trained.step, trained.supervision) == (NAMES, 37, LINES)
    assert not trained.network.training
    assert trained.network.normalisation == network.normalisation
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(trained.network(images), network(images))


def test_the_data_settings_alone(original):
    assert segmenter_data(original[0]) == DATA


def test_a_run_that_left_no_audit_lines(run_dir):
    for text in ("[]", "{}", "{"):
        (run_dir / "supervision.json").write_text(text)
        assert load_segmenter(run_dir).supervision == ()
    (run_dir / "supervision.json").unlink()
    assert load_segmenter(run_dir).supervision == ()


def refused(run_dir: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        load_segmenter(run_dir)
    assert "\n" not in str(caught.value)


def test_runs_of_other_commands(run_dir, tmp_path):
    refused(tmp_path / "nowhere", "no run directory: it has no config.yaml.*run of oaa segment")
    with pytest.raises(UserError, match="describes no classifier"):
        load_classifier(run_dir)
    (run_dir / "config.yaml").write_text(dump_config(ClassifyConfig()))
    refused(run_dir, "is a run of oaa classify or oaa integral, expected one of oaa segment; .*oaa"
            " attend")  # fmt: skip


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("data: {}\n", "describes no segmentation network: it lacks network or data"),
        ("- 1\n", "describes no segmentation network"),
        ("network: [\n", "config.yaml is no valid YAML"),
        ("data: {}\nnetwork: {bakcbone: x}\n", "network in .*cannot be understood.*bakcb"),
        ("network: {}\ndata: {fraction: 3}\n", "data in .*config.yaml.*data.fraction is 3"),
    ],
)
def test_settings_of_something_else(run_dir, text, match):
    (run_dir / "config.yaml").write_text(text)
    refused(run_dir, match)


def test_another_class_list(run_dir):
    (run_dir / "classes.txt").write_text("cat\ndog\n")
    refused(run_dir, "does not fit the network .* 2 classes of classes.txt")


def test_no_checkpoint_and_a_damaged_one(run_dir):
    name = json.loads((run_dir / "checkpoints/latest.json").read_text())["name"]
    with open(run_dir / "checkpoints" / name / "model.safetensors", "r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x00\x01\x02\x03")
    refused(run_dir, "model.safetensors is damaged")
    (run_dir / "checkpoints/latest.json").unlink()
    refused(run_dir, "holds no complete checkpoint")
