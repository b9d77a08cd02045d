"""Networks small enough to be worked by hand."""

import torch
from torch import nn

from dist_oaa.config.model import EraseConfig
from dist_oaa.models.backbones import Trunk
from dist_oaa.models.online_cam import Erasing, OnlineCAMClassifier
from dist_oaa.models.variants.registry import VARIANTS
from dist_oaa.models.variants.two_branch import TwoBranch

PLAIN = {"cam": OnlineCAMClassifier, "two_branch": TwoBranch}
"""Networks without thresholds."""


def toy(stride=1, classes=3, layers=0, seed=0, variant="cam", **erase):
    """A trunk that looks at `stride` x `stride` pixels a cell, without overlap."""
    generator = torch.Generator().manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(3, 4, stride, stride), nn.ReLU())
    model = assemble(body, 4, stride, classes, layers, variant, **erase)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model


def see_through(weights, variant, **erase):
    """The trunk is the image itself and every head is C x 3 weights, without a bias."""
    model = assemble(nn.Identity(), 3, 1, len(weights), 0, variant, **erase)
    for head in model.children():
        if isinstance(head, nn.Sequential):
            head.class_aware.weight.data = torch.tensor(weights)[:, :, None, None]
    return model


def assemble(body, channels, stride, classes, layers, variant, **erase):
    shape = (Trunk(body, channels, stride), classes, 5, layers)
    if variant in PLAIN:
        return PLAIN[variant](*shape)
    return VARIANTS[variant](*shape, EraseConfig(**erase))


def erasing(labels, chances=None):
    """The labels, and the chances of the images (all 0 by default)."""
    labels_BC = torch.tensor(labels, dtype=torch.uint8)
    chance_B = torch.zeros(len(labels)) if chances is None else torch.tensor(chances)
    return Erasing(labels_BC, chance_B)


def input_of(module):
    """A list that receives a copy of what the module is given in each forward pass."""
    seen = []
    module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    return seen
