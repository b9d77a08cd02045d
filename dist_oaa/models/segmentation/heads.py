"""The heads of DeepLab: dilated convolutions that see far around a cell at no loss of resolution.

Shape legend: B images, D channels of the trunk, L label channels (background first), h x w cells.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from dist_oaa.config.segmentation import SegmentationConfig

CLASSIFIER_STD = 0.01
# The papers' dilations, in cells of this stride.
PAPER_STRIDE = 8
PAPER_RATES = {"large_fov": (12,), "deeplab_v2": (6, 12, 18, 24)}


class DilatedHead(nn.Module):
    """One or more branches over the same features, their scores summed.

    kind mlp: fc6 (3x3, dilated, head_channels), fc7 (1x1, head_channels), each with a ReLU and
    dropout, and fc8 (1x1, L): the VGG16 networks of both papers. kind plain: fc8 alone, 3x3 and
    dilated: their ResNet-101 networks.

    Args:
        channels: D.
        num_labels: L.
        rates: dilation of each branch, in cells.
        pool: what comes before the branches (`vgg16_pool5`, or nn.Identity).
    """

    def __init__(
        self,
        channels: int,
        num_labels: int,
        rates: tuple[int, ...],
        kind: str,
        head_channels: int,
        dropout: float,
        pool: nn.Module,
    ) -> None:
        super().__init__()
        self.pool = pool
        if kind == "plain":
            branches = [plain_branch(channels, num_labels, rate) for rate in rates]
        else:
            branches = [
                mlp_branch(channels, num_labels, rate, head_channels, dropout) for rate in rates
            ]
        self.branches = nn.ModuleList(branches)

    def forward(self, features_BDhw: Tensor) -> Tensor:
        """(B, D, h, w) features -> (B, L, h, w) scores before the softmax."""
        pooled_BDhw = self.pool(features_BDhw)
        scores_BLhw = self.branches[0](pooled_BDhw)
        for branch in self.branches[1:]:
            scores_BLhw = scores_BLhw + branch(pooled_BDhw)
        return scores_BLhw

    def reset(self, generator: torch.Generator) -> None:
        """New weights: He's for hidden layers, N(0, 0.01) for the scores; biases 0."""
        for branch in self.branches:
            for name, layer in branch.named_children():
                if not isinstance(layer, nn.Conv2d):
                    continue
                if name == "fc8":
                    nn.init.normal_(layer.weight, std=CLASSIFIER_STD, generator=generator)
                else:
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(layer.bias)


def mlp_branch(
    channels: int, num_labels: int, rate: int, head_channels: int, dropout: float
) -> nn.Sequential:
    """fc6 - fc7 - fc8 of DeepLab's VGG16 networks."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["fc6"] = nn.Conv2d(channels, head_channels, 3, padding=rate, dilation=rate)
    layers["relu6"] = nn.ReLU(inplace=True)
    layers["drop6"] = nn.Dropout(dropout)
    layers["fc7"] = nn.Conv2d(head_channels, head_channels, 1)
    layers["relu7"] = nn.ReLU(inplace=True)
    layers["drop7"] = nn.Dropout(dropout)
    layers["fc8"] = nn.Conv2d(head_channels, num_labels, 1)
    return nn.Sequential(layers)


def plain_branch(channels: int, num_labels: int, rate: int) -> nn.Sequential:
    """The one convolution of a branch of DeepLab's ResNet-101 networks."""
    fc8 = nn.Conv2d(channels, num_labels, 3, padding=rate, dilation=rate)
    return nn.Sequential(OrderedDict(fc8=fc8))


def vgg16_pool5(architecture: str) -> nn.Module:
    """What follows conv5_3 in DeepLab's VGG16: pool5 (3x3, stride 1), in LargeFOV also pool5a."""
    pool5 = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
    if architecture != "large_fov":
        return pool5
    return nn.Sequential(pool5, nn.AvgPool2d(kernel_size=3, stride=1, padding=1))


def build_head(
    config: SegmentationConfig, channels: int, stride: int, num_labels: int
) -> DilatedHead:
    """The head of large_fov or deeplab_v2 for features of `channels` at `stride` pixels a cell."""
    kind = config.head
    if kind == "auto":
        kind = "plain" if config.backbone.startswith("resnet") else "mlp"
    vgg16 = config.backbone == "vgg16_oaa" and config.out_index in (-1, 4)
    return DilatedHead(
        channels,
        num_labels,
        rates_at(config, stride),
        kind,
        config.head_channels,
        config.dropout,
        vgg16_pool5(config.architecture) if vgg16 else nn.Identity(),
    )


def rates_at(config: SegmentationConfig, stride: int) -> tuple[int, ...]:
    """The dilations in cells of this stride: as set, or the papers' field of view in pixels."""
    if config.rates:
        return tuple(config.rates)
    paper = PAPER_RATES[config.architecture]
    return tuple(max(1, round(rate * PAPER_STRIDE / stride)) for rate in paper)
