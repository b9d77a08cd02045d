"""The integral stage's forward pass with a real network: what it adds up, and empty ranks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dist_oaa.attention.targets import TargetMaps
from dist_oaa.config.errors import UserError
from dist_oaa.config.integral import IntegralConfig, IntegralModelConfig
from dist_oaa.config.model import ModelConfig
from dist_oaa.data.geometry import HORIZONTAL_FLIP_23, IDENTITY_23
from dist_oaa.data.loader import Batch
from dist_oaa.models.classifier import build_classifier
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.plan import Position
from dist_oaa.stages.integral import check_shards
from dist_oaa.stages.integrating.stage import IntegralStage

WORLD = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(backbone="test_efficientnet", weights="none", head_channels=8)
    network = build_classifier(config, 3, seed=0)[0].train()
    with torch.no_grad():  # as drawn, its cells differ in the eighth digit only
        for name, parameter in network.head.named_parameters():
            parameter.mul_(40 if name.endswith("weight") else 1)
    return network


def stage_of(model, **settings) -> IntegralStage:
    """Two images with classes (0,) and (1, 2); the last pair has no map."""
    targets = TargetMaps([(0,), (1, 2)], np.ones(2, bool), 4)
    left_SS = np.zeros((4, 4), np.uint8)
    left_SS[:, :2] = 200
    targets.load([(0, 0, left_SS), (1, 1, np.full((4, 4), 8, np.uint8))])
    config = IntegralConfig(integral=IntegralModelConfig(**settings))
    trainable = SimpleNamespace(model=model, wrapped=model)
    return IntegralStage(config, WORLD, trainable, None, None, targets, lambda at: {"seen": 1.0})


def batch_of(*numbers: int, flip: bool = False) -> Batch:
    rng = np.random.default_rng(5)
    images = torch.from_numpy(rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8))
    geometry_23 = HORIZONTAL_FLIP_23 if flip else IDENTITY_23
    labels_BC = torch.tensor([[1, 0, 0], [0, 1, 1]], dtype=torch.uint8)
    index = list(numbers)
    return Batch(
        ids=[f"i{n}" for n in index],
        index_B=torch.tensor(index, dtype=torch.int64),
        images_B3HW=images[index].flip(3) if flip else images[index],
        labels_BC=labels_BC[index],
        geometry_B23=torch.from_numpy(geometry_23).float().expand(len(index), 2, 3),
        extent_B2=torch.tensor([[64, 64]] * len(index)).reshape(-1, 2),
        bad=[],
    )


def features(model, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        images = model.normalisation.apply(batch.images_B3HW, batch.extent_B2)
        return model(images, batch.extent_B2).cam_BCHW.double()


def test_the_loss_is_that_of_the_cells(model):
    """Stride 16: 4 x 4 cells, the very cells of the maps."""
    batch = batch_of(0)
    loss, counts = stage_of(model).forward(batch, 0)
    f_CHW = features(model, batch)[0]
    assert f_CHW.shape == (3, 4, 4)
    ep = torch.nn.functional.softplus(-f_CHW[0, :, :2]).mean()
    rest = torch.cat([f_CHW[0, :, 2:].flatten(), f_CHW[1:].flatten()])
    assert loss.item() == pytest.approx(
        float(ep + torch.nn.functional.softplus(rest).mean()), rel=1e-5
    )
    assert counts == [8, 16]


def test_a_class_without_a_map_is_neither_cell_nor_loss(model):
    batch = batch_of(1)
    loss, counts = stage_of(model).forward(batch, 0)
    f_CHW = features(model, batch)[0]
    expected = torch.nn.functional.softplus(-f_CHW[1]).mean()
    expected += torch.nn.functional.softplus(f_CHW[0]).mean()
    assert loss.item() == pytest.approx(float(expected), rel=1e-5)
    assert counts == [16, 16]


def test_a_threshold_counts(model):
    _, counts = stage_of(model, threshold=0.99).forward(batch_of(0, 1), 0)
    assert counts == [8 + 16, 16 + 16]  # maps are divided by their own maximum


def test_batch_mates_do_not_matter(model):
    stage = stage_of(model)
    both, counts = stage.forward(batch_of(0, 1), 0)
    alone = [stage.forward(batch_of(n), 0) for n in (0, 1)]
    assert both.item() == pytest.approx(sum(loss.item() for loss, _ in alone), rel=1e-5)
    assert counts == [sum(c) for c in zip(*(c for _, c in alone), strict=True)]


def test_a_flipped_image_has_flipped_targets(model):
    """The mirrored input is scored against the mirrored map, by hand on what the network says."""
    batch = batch_of(0, flip=True)
    loss, _ = stage_of(model, loss="ep").forward(batch, 0)
    f_HW = features(model, batch)[0, 0]
    right = float(torch.nn.functional.softplus(-f_HW[:, 2:]).mean())
    left = float(torch.nn.functional.softplus(-f_HW[:, :2]).mean())
    assert abs(left - right) > 1e-5, "the two halves must differ for this to tell anything"
    assert loss.item() == pytest.approx(right, rel=1e-5)


def test_an_empty_rank_reaches_every_parameter(model):
    model.zero_grad()
    loss, counts = stage_of(model).forward(batch_of(), 0)
    assert loss.item() == 0
    assert counts == [0, 0]
    loss.backward()
    wanting = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not wanting
    assert model.training


def test_figures_of_an_epoch(model):
    totals = {"images": 4, "loss": 6.0, "attended": 3.0, "cells": 12.0}
    figures = stage_of(model).end_epoch(Position(totals=totals, skipped=["bad.jpg is damaged"]))
    assert figures == {
        "train/epoch_loss": 1.5,
        "train/attended_cells": 0.25,
        "train/skipped_images": 1.0,
        "seen": 1.0,
    }


def test_more_processes_than_shards_are_refused():
    config = IntegralConfig(integral=IntegralModelConfig(shards=2))
    check_shards(config, World(1, 2, 1, torch.device("cpu")))
    with pytest.raises(UserError, match=r"3 processes were started, but integral\.shards is 2"):
        check_shards(config, World(1, 3, 1, torch.device("cpu")))
