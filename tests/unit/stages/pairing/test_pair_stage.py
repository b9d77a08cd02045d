"""What a rank does in a step without images, and what it says of an epoch without some pairs."""

import math
from types import SimpleNamespace

import torch

from dist_oaa.config.affinity import AffinityNetConfig
from dist_oaa.config.model import ModelConfig
from dist_oaa.models.affinity_net import build_affinity_net
from dist_oaa.stages.pairing.stage import PairStage


def stage() -> PairStage:
    model = ModelConfig(backbone="test_efficientnet", weights="none", freeze_batch_norm=False)
    network, _ = build_affinity_net(model, AffinityNetConfig(channels=[4, 4, 4]), 0)
    world = SimpleNamespace(device=torch.device("cpu"))
    trainable = SimpleNamespace(model=network, wrapped=network)
    return PairStage(None, world, trainable, None, None, lambda position: None)


def test_a_rank_without_images_reaches_every_parameter_and_changes_nothing():
    empty = stage()
    network = empty.trainable.model.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loss, counts = empty.forward([], epoch=0)
    loss.backward()
    assert loss.item() == 0
    assert counts == [0.0] * 6
    assert all(p.grad is not None and not p.grad.any() for p in network.parameters())
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_an_epoch_without_one_kind_of_pair():
    totals = {"images": 2, "loss": 3.0, "background_pairs": 0, "background_affinity": 0.0}
    totals |= {"object_pairs": 10, "object_affinity": 4.0, "across_pairs": 2}
    totals |= {"across_affinity": 0.5}
    found = stage().end_epoch(SimpleNamespace(totals=totals, skipped=["a"]))
    assert math.isnan(found.pop("affinity/background"))
    assert found == {
        "train/epoch_loss": 1.5,
        "train/skipped_images": 1.0,
        "train/pairs_per_image": 6.0,
        "affinity/object": 0.4,
        "affinity/across": 0.25,
    }
