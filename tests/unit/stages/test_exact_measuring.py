"""Measuring with exact_elastic: which images share a forward pass does not depend on the world."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.integral import IntegralConfig
from dist_oaa.config.model import OptimConfig
from dist_oaa.data.sampler import EpochOrder
from dist_oaa.runtime.distributed import World
from dist_oaa.stages.classifying.measure import Measurer
from dist_oaa.stages.integrating.epoch_end import IntegralEnd

IMAGES, SHARDS = 41, 7
CHOSEN = np.arange(0, IMAGES, 2)


class Asked:
    """A loader that notes the batches that it is asked for, and has none."""

    def __init__(self):
        self.parts = []

    def load(self, parts, epoch):
        self.parts += [part.tolist() for part in parts]
        return iter(())


def classifier_batches(optim: OptimConfig, world: World) -> list[list[int]]:
    measurer = Measurer.__new__(Measurer)
    measurer.config, measurer.world = ClassifyConfig(optim=optim), world
    order = EpochOrder(np.arange(IMAGES) % SHARDS, SHARDS, 0, optim.groups)
    model = SimpleNamespace(model=torch.nn.Identity())
    stage = SimpleNamespace(trainable=model, order=order, loader=Asked())
    measurer._local(stage, CHOSEN, {}, [], [])
    return stage.loader.parts


def integral_batches(optim: OptimConfig, world: World) -> list[list[int]]:
    end = IntegralEnd.__new__(IntegralEnd)
    end.config, end.world = IntegralConfig(optim=optim), world
    end.model, end.loader = torch.nn.Identity(), Asked()
    end._local(CHOSEN, None, [])
    return end.loader.parts


def batches(of, optim: OptimConfig, ranks: int) -> list[list[int]]:
    worlds = [World(rank, ranks, 0, torch.device("cpu")) for rank in range(ranks)]
    return sorted(part for world in worlds for part in of(optim, world))


@pytest.mark.parametrize("of", [classifier_batches, integral_batches])
def test_the_same_batches_at_any_world_size(of):
    exact = OptimConfig(batch_size=9, exact_elastic=True, virtual_batches=3)
    alone = batches(of, exact, 1)
    assert sorted(i for part in alone for i in part) == CHOSEN.tolist()
    assert max(map(len, alone)) == 3
    assert batches(of, exact, 2) == batches(of, exact, 3) == alone


@pytest.mark.parametrize("of", [classifier_batches, integral_batches])
def test_by_default_the_ranks_share_a_batch(of):
    for ranks in (1, 2, 3):
        found = batches(of, OptimConfig(batch_size=9), ranks)
        assert sorted(i for part in found for i in part) == CHOSEN.tolist()
        assert max(map(len, found)) == 9 // ranks
