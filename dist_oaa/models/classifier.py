"""Building the classifier of `model`; its network and what it answers come from online_cam.py."""

import torch

from dist_oaa.config.model import ModelConfig
from dist_oaa.models.backbones import build_trunk
from dist_oaa.models.normalisation import NORMALISATIONS
from dist_oaa.models.online_cam import (
    Erasing,
    OnlineCAMClassifier,
    Prediction,
    masked_mean,
    valid_cells,
)
from dist_oaa.models.variants.registry import create_network
from dist_oaa.models.weights import WeightsReport, load_trunk_weights

__all__ = [
    "Erasing",
    "OnlineCAMClassifier",
    "Prediction",
    "build_classifier",
    "masked_mean",
    "valid_cells",
]


def build_classifier(
    config: ModelConfig, num_classes: int, seed: int
) -> tuple[OnlineCAMClassifier, WeightsReport]:
    """The classifier of `model`, with its trunk's weights loaded, on the CPU in training mode.

    New weights are a function of the seed; the global random state is as before.

    Raises:
        UserError: what build_trunk and load_trunk_weights raise.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the CUDA generators too.
        torch.random.default_generator.manual_seed(seed)
        classifier = create_network(config, build_trunk(config), num_classes)
        report = load_trunk_weights(classifier.trunk, config)
    # A generator of its own: the head must not depend on what the trunk drew.
    classifier.reset_head(torch.Generator().manual_seed(seed))
    if config.freeze_batch_norm:
        classifier.freeze_batch_norm()
    if config.normalise != "auto":
        classifier.normalisation = NORMALISATIONS[config.normalise]
    return classifier, report
