"""What a training stage wraps its network in with exact_elastic."""

import pytest
import torch
from torch import nn

from dist_oaa.config.errors import UserError
from dist_oaa.config.model import ModelConfig, OptimConfig
from dist_oaa.config.segmentation import SegmentationConfig
from dist_oaa.models.classifier import build_classifier
from dist_oaa.models.segmentation.build import build_segmenter
from dist_oaa.runtime.distributed import World
from dist_oaa.stages.training import make_trainable

ALONE = World(0, 1, 0, torch.device("cpu"))
EXACT = OptimConfig(exact_elastic=True, virtual_batches=3)
SMALL = {"backbone": "test_efficientnet", "weights": "none", "head_channels": 8}


def test_a_frozen_classifier_is_taken_as_it_is():
    model, _ = build_classifier(ModelConfig(**SMALL), 3, 0)
    trainable = make_trainable(model, EXACT, ALONE)
    assert trainable.exact.virtual == 3
    assert trainable.wrapped is model
    assert not trainable.scaler.is_enabled()
    assert make_trainable(model, OptimConfig(), ALONE).exact is None


def test_batch_norm_that_gathers_statistics_is_refused():
    model, _ = build_classifier(ModelConfig(**SMALL, freeze_batch_norm=False), 3, 0)
    with pytest.raises(
        UserError, match=r"optim\.exact_elastic .* batch norm trunk\.\S*bn1 gathers"
    ):
        make_trainable(model, EXACT, ALONE)
    trained = SegmentationConfig(**SMALL, output_stride=16, batch_norm="train")
    with pytest.raises(UserError, match="gathers statistics"):
        make_trainable(build_segmenter(trained, 3, 0)[0], EXACT, ALONE)


def test_a_frozen_layer_beside_one_that_is_not():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

        def train(self, mode=True):
            super().train(mode)
            self.trunk.eval()
            return self

    with pytest.raises(UserError, match=r"batch norm head\.1 gathers"):
        make_trainable(Net(), EXACT, ALONE)
