"""The networks that `model.variant` names."""

from dist_oaa.config.model import ModelConfig
from dist_oaa.models.backbones import Trunk
from dist_oaa.models.online_cam import OnlineCAMClassifier
from dist_oaa.models.variants.acol import ACoL
from dist_oaa.models.variants.adl import ADL
from dist_oaa.models.variants.seenet import SeeNet
from dist_oaa.models.variants.two_branch import TwoBranch

VARIANTS = {"acol": ACoL, "adl": ADL, "seenet": SeeNet}
"""What erases while it trains; `cam` is the plain classifier, `two_branch` is TwoBranch."""


def create_network(config: ModelConfig, trunk: Trunk, num_classes: int) -> OnlineCAMClassifier:
    """The network of `model.variant` around a trunk; its new weights are yet to be drawn."""
    shape = (trunk, num_classes, config.head_channels, config.head_layers)
    if config.variant in VARIANTS:
        network = VARIANTS[config.variant](*shape, config.erase)
    else:
        network = {"cam": OnlineCAMClassifier, "two_branch": TwoBranch}[config.variant](*shape)
    network.one_class = config.labels == "single"
    return network
