"""The second branch within classify: what it learns, what it counts, and what it leaves alone."""

import copy
import math

import pytest
import torch

from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Observation, Pairs
from dist_oaa.config.accumulate import AccumulateConfig
from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.model import ModelConfig, TwoBranchConfig
from dist_oaa.stages.classifying.branching import SecondBranch


def scene(flipped=False) -> tuple[torch.Tensor, Observation, MapBank]:
    """One image of class 1 with two cells side by side; its map is 200 at the left, 0 at the right.
    F2 says log 3, that is q = 3/4, of all cells and classes."""
    bank = MapBank.empty(1, 2, torch.uint8)
    bank.maps_RSS[0] = torch.tensor([[200, 0], [200, 0]])
    geometry_23 = torch.tensor([[-1.0, 0, 1], [0, 1, 0]]) if flipped else torch.eye(2, 3)
    zero = torch.zeros(1, dtype=torch.int64)
    seen = Observation(
        torch.zeros(1, 2, 1, 2),
        torch.zeros(1, 2),
        torch.tensor([[0, 1]], dtype=torch.uint8),
        geometry_23[None],
        torch.tensor([[1, 2]]),
        Pairs(zero, zero + 1, zero),
    )
    cam_BCHW = torch.full((1, 2, 1, 2), math.log(3), requires_grad=True)
    return cam_BCHW, seen, bank


def branch(**settings) -> SecondBranch:
    return SecondBranch(ModelConfig(variant="two_branch", two_branch=TwoBranchConfig(**settings)))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # N+ is the left cell of class 1 (p = 1), N- the other three.
        ("hybrid", -math.log(3 / 4) - math.log(1 / 4)),
        ("ep", -math.log(3 / 4)),
        ("mce", -(math.log(3 / 4) + 3 * math.log(1 / 4)) / 4),
    ],
)
def test_the_loss_by_hand(loss, expected):
    cam_BCHW, seen, bank = scene()
    loss_B, counts = branch(loss=loss).loss_B(cam_BCHW, seen, bank)
    assert loss_B.tolist() == pytest.approx([expected])
    assert [float(count) for count in counts] == pytest.approx([1, expected, 1, 2])


def test_a_flipped_input_learns_the_flipped_map():
    for flipped, column in ((False, 0), (True, 1)):
        cam_BCHW, seen, bank = scene(flipped)
        branch().loss_B(cam_BCHW, seen, bank)[0].sum().backward()
        # Only where there is attention is F pushed up.
        assert (cam_BCHW.grad[0, 1, 0] < 0).nonzero().tolist() == [[column]]
        assert (cam_BCHW.grad[0, 0] > 0).all()


def test_the_maps_that_are_learnt_are_never_touched():
    """Neither by the loss nor by its gradient: F2 has no way into M."""
    cam_BCHW, seen, bank = scene()
    before = copy.deepcopy(bank.tensors())
    branch().loss_B(cam_BCHW, seen, bank)[0].sum().backward()
    assert cam_BCHW.grad.abs().max() > 0
    for name, tensor in bank.tensors().items():
        assert not tensor.requires_grad
        assert torch.equal(tensor, before[name]), name


def test_a_class_without_a_map_is_left_out():
    cam_BCHW, seen, bank = scene()
    bank.maps_RSS.zero_()
    loss_B, counts = branch().loss_B(cam_BCHW, seen, bank)
    assert loss_B.tolist() == pytest.approx([-math.log(1 / 4)])  # class 0 is known to be absent
    assert [float(count) for count in counts[2:]] == [0, 0]
    loss_B.sum().backward()
    assert cam_BCHW.grad[0, 1].abs().max() == 0


def test_when_it_learns():
    late = branch(start_epoch=3)
    assert [late.learns(epoch) for epoch in (0, 2, 3, 9)] == [False, False, True, True]
    plain = SecondBranch(ModelConfig())
    assert not plain.learns(9)
    assert plain.counters == ()


def test_its_figures_are_means_over_what_was_taught():
    totals = {"images": 40, "taught_images": 20, "branch_loss": 30.0, "attended": 6, "cells": 24}
    assert branch().figures(totals) == {"train/branch_loss": 1.5, "train/attended_cells": 0.25}
    assert branch().figures({"images": 40, "taught_images": 0.0}) == {}
    assert SecondBranch(ModelConfig()).figures({"images": 40}) == {}


def test_it_cannot_start_before_there_are_maps():
    model = ModelConfig(variant="two_branch", two_branch=TwoBranchConfig(start_epoch=1))
    assert ClassifyConfig(model=model, accumulate=AccumulateConfig(start_epoch=1))
    with pytest.raises(ValueError, match=r"two_branch\.start_epoch is 1, expected at least .* 2"):
        ClassifyConfig(model=model, accumulate=AccumulateConfig(start_epoch=2))
    assert ClassifyConfig(accumulate=AccumulateConfig(start_epoch=5)), "of no other network"
