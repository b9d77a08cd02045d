"""The network whose class activation maps come with every forward pass.

Shape legend: B images, 3 colours, D channels, C classes, H x W pixels or feature cells,
2 = (height, width).
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_oaa.models.backbones import Trunk
from dist_oaa.models.normalisation import Normalisation, extent_mask

HEAD_STD = 0.01


def valid_cells(
    extent_B2: Tensor, input_hw: tuple[int, int], feature_hw: tuple[int, int]
) -> Tensor:
    """Feature cells that show the image and not its padding, at the right and at the bottom.

    cells = round(valid pixels * cells / pixels), halves up, at least 1: a cell counts where at
    least half of it is image. Integer arithmetic, so the same on every device.

    Args:
        extent_B2: int64 valid (height, width) of each image in input pixels.
        input_hw: height and width of the padded batch in pixels.
        feature_hw: height and width of the feature map in cells.

    Returns:
        int64 (B, 2), 1 to feature_hw.
    """
    counts = [
        (2 * extent_B2[:, axis] * cells + pixels) // (2 * pixels)
        for axis, (pixels, cells) in enumerate(zip(input_hw, feature_hw, strict=True))
    ]
    return torch.stack(counts, dim=1).clamp(min=1)


def masked_mean(cam_BCHW: Tensor, cells_B2: Tensor | None) -> Tensor:
    """Float32 (B, C) mean over the first cells_B2 = (rows, columns) of each map; None means all.

    The sum is taken in float32 whatever the autocast type: 28 x 28 float16 values lose digits.
    """
    cam_BCHW = cam_BCHW.float()
    if cells_B2 is None:
        return cam_BCHW.sum(dim=(-2, -1)) / (cam_BCHW.shape[-2] * cam_BCHW.shape[-1])
    mask_BHW = extent_mask(cells_B2, (cam_BCHW.shape[-2], cam_BCHW.shape[-1]))
    sum_BC = torch.where(mask_BHW[:, None], cam_BCHW, 0.0).sum(dim=(-2, -1))
    return sum_BC / cells_B2.prod(dim=1, keepdim=True)


class Erasing(NamedTuple):
    """What networks that erase or branch while they train need to know of a batch (variants/)."""

    labels_BC: Tensor
    """1 for the target classes of each image."""
    chance_B: Tensor
    """float32: a number from [0, 1) for each image, a function of (seed, epoch, image name)."""
    second_branch: bool = True
    """Whether the second branch of `two_branch` learns already."""


class Prediction(NamedTuple):
    """What a classifier says of a batch."""

    logits_BC: Tensor
    """float32 scores before the sigmoid, or before the softmax of single labels."""
    cam_BCHW: Tensor
    """F, raw: the attention of the network; cells over padding are left as they are."""
    extra: tuple[tuple[Tensor, Tensor], ...] = ()
    """(logits_BC, targets_BC) of further branches, one more term of the loss each; in training."""
    online_cam_BCHW: Tensor | None = None
    """What accumulates where that is another map than cam_BCHW: F of the branch that classifies."""

    @property
    def accumulated_BCHW(self) -> Tensor:
        """The maps that accumulate in training."""
        return self.cam_BCHW if self.online_cam_BCHW is None else self.online_cam_BCHW


def make_head(
    channels: int, num_classes: int, head_channels: int, head_layers: int
) -> nn.Sequential:
    """head_layers x (3x3 convolution, ReLU) and a class-aware 1x1 convolution, as constructed."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, head_layers + 1):
        layers[f"conv{number}"] = nn.Conv2d(channels, head_channels, 3, padding=1)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
        channels = head_channels
    layers["class_aware"] = nn.Conv2d(channels, num_classes, 1)
    return nn.Sequential(layers)


class OnlineCAMClassifier(nn.Module):
    """Trunk, head_layers x (3x3 convolution, ReLU), a class-aware 1x1 convolution, and GAP.

    The output F of the 1x1 convolution is the class activation map before its ReLU (Eq. 2), and
    its mean over the image is the score before the sigmoid (Eq. 1).

    Attributes:
        trunk, head: the two parts; all that is not in the trunk is new.
        normalisation: what turns images into the input of `forward`.
        one_class: every image has exactly one class (`model.labels: single`).
    """

    one_class = False

    def __init__(
        self, trunk: Trunk, num_classes: int, head_channels: int, head_layers: int
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.normalisation = Normalisation(mean=trunk.mean, std=trunk.std)
        self.batch_norm_is_frozen = False
        self.head = make_head(trunk.channels, num_classes, head_channels, head_layers)
        self.reset_head()

    def reset_head(self, generator: torch.Generator | None = None) -> None:
        """All that is new: weights from N(0, 0.01), biases 0 (both public codes)."""
        for part in self.children():
            if part is self.trunk:
                continue
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=HEAD_STD, generator=generator)
                    nn.init.zeros_(layer.bias)

    def forward(
        self,
        images_B3HW: Tensor,
        extent_B2: Tensor | None = None,
        occluded_BHW: Tensor | None = None,
        erasing: Erasing | None = None,
    ) -> Prediction:
        """Scores and maps of normalised images.

        Args:
            images_B3HW: normalised images, padded at the right and at the bottom.
            extent_B2: int64 valid (height, width) of each image in pixels; None means all.
            occluded_BHW: bool, the cells of the trunk's feature map that become 0.
            erasing: given in training; a plain classifier has no use for it.

        Returns:
            The score of a class is the mean of its map over the cells of `valid_cells`.
        """
        features_BDHW = self.trunk(images_B3HW)
        if occluded_BHW is not None:
            features_BDHW = features_BDHW.masked_fill(occluded_BHW[:, None], 0.0)
        cells_B2 = None
        if extent_B2 is not None:
            input_hw = (images_B3HW.shape[-2], images_B3HW.shape[-1])
            feature_hw = (features_BDHW.shape[-2], features_BDHW.shape[-1])
            cells_B2 = valid_cells(extent_B2, input_hw, feature_hw)
        return self.predict(features_BDHW, cells_B2, erasing)

    def predict(
        self, features_BDHW: Tensor, cells_B2: Tensor | None, erasing: Erasing | None
    ) -> Prediction:
        """What the head makes of the trunk's features; the networks of variants/ differ here.

        Args:
            features_BDHW: D channels of the trunk's feature map.
            cells_B2: int64 valid (rows, columns) of each feature map; None means all.
            erasing: as in `forward`.
        """
        cam_BCHW = self.head(features_BDHW)
        return Prediction(masked_mean(cam_BCHW, cells_B2), cam_BCHW)

    def freeze_batch_norm(self) -> None:
        """Keep the trunk's batch-norm statistics and affine parameters as they are, for good."""
        self.batch_norm_is_frozen = True
        for layer in self.trunk.modules():
            if isinstance(layer, _BatchNorm):
                for parameter in layer.parameters(recurse=False):
                    parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "OnlineCAMClassifier":
        """As nn.Module.train, but frozen batch norm stays in evaluation mode."""
        super().train(mode)
        if self.batch_norm_is_frozen:
            for layer in self.trunk.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        return self
