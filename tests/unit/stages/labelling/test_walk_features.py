"""Features for the random walk: what the trunk sees of the whole image, at its training size."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.labels import LabelsConfig, RandomWalkConfig
from dist_oaa.config.model import ModelConfig
from dist_oaa.models.classifier import build_classifier
from dist_oaa.stages import trained
from dist_oaa.stages.labelling.features import feature_source, needs_features

WALK = RandomWalkConfig(affinity="features", checkpoint="runs/a")


def test_features_are_those_of_the_trunk(monkeypatch):
    config = ModelConfig(backbone="test_efficientnet", weights="none", head_channels=8)
    model, _ = build_classifier(config, 3, 0)
    data = DataConfig(root="x", resize="square", size=64)
    opened: list[Path] = []

    def load(run_dir: Path) -> trained.Trained:
        opened.append(run_dir)
        return trained.Trained(model.eval(), config, data, ("a", "b", "c"), 1, "cam")

    monkeypatch.setattr(trained, "load_classifier", load)
    image_HW3 = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    features_Dhw = feature_source(WALK).features(image_HW3)
    assert opened == [Path("runs/a")]
    images_1HW3 = torch.from_numpy(image_HW3)[None]
    with torch.no_grad():
        expected_1Dhw = model.trunk(model.normalisation.apply(images_1HW3.permute(0, 3, 1, 2)))
    assert features_Dhw.dtype == np.float32
    assert np.array_equal(features_Dhw, expected_1Dhw[0].numpy())
    # Any image is seen at the size of the training.
    wide = feature_source(WALK).features(np.zeros((30, 200, 3), np.uint8))
    assert wide.shape == features_Dhw.shape


def test_only_some_walks_need_them(tmp_path):
    assert needs_features(LabelsConfig(refine=["crf", "random_walk"], random_walk=WALK))
    assert not needs_features(LabelsConfig(refine=["crf"], random_walk=WALK))
    assert not needs_features(LabelsConfig(refine=["random_walk"]))
    for affinity in ("features", "learned"):
        walk = RandomWalkConfig(affinity=affinity, checkpoint=str(tmp_path / "none"))
        with pytest.raises(UserError, match="none is no run directory"):
            feature_source(walk)
