"""A segmentation network: a trunk, a head, and what both papers and users expect around them.

Shape legend: B images, 3 colours, H x W pixels, L label channels (background first), h x w cells.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_oaa.models.normalisation import Normalisation


class SegmentationNetwork(nn.Module):
    """Scores of every class and the background for every feature cell.

    Attributes:
        trunk, head: the two parts; all that is not in the trunk is new.
        normalisation: what turns images into the input of `forward`.
        num_classes: object classes; the network has one more channel, the background, first.
        stride: input pixels per cell of the trunk; input sides are best multiples of it.
    """

    def __init__(
        self,
        trunk: nn.Module,
        head: nn.Module,
        num_classes: int,
        scales: tuple[float, ...] = (),
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.normalisation = Normalisation(mean=tuple(trunk.mean), std=tuple(trunk.std))
        self.num_classes = num_classes
        self.stride: int = trunk.stride
        # The full size first: its scores set the resolution of the others.
        self.scales = tuple(sorted(scales, reverse=True, key=lambda scale: (scale == 1, scale)))
        self.batch_norm_is_frozen = False

    def forward(self, images_B3HW: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Scores before the softmax, at the network's own resolution.

        Args:
            images_B3HW: normalised images, any size; 0 where they are padded.

        Returns:
            (B, L, h, w). A network with several input scales gives the largest score over them
            and, in training, a tuple: that first, then those of each scale (DeepLabv2, section
            4.1: all of them are trained).
        """
        if len(self.scales) < 2:
            return self.score(images_B3HW)
        scores = [self.score(scaled(images_B3HW, scale)) for scale in self.scales]
        fused_BLhw = scores[0]
        for smaller_BLhw in scores[1:]:
            fused_BLhw = torch.maximum(fused_BLhw, enlarged(smaller_BLhw, fused_BLhw))
        return (fused_BLhw, *scores) if self.training else fused_BLhw

    def score(self, images_B3HW: Tensor) -> Tensor:
        """(B, L, h, w) scores of one size of the images."""
        return self.head(self.trunk(images_B3HW))

    def freeze_batch_norm(self) -> None:
        """Keep the trunk's batch-norm statistics and affine parameters as they are, for good."""
        self.batch_norm_is_frozen = True
        for layer in self.trunk.modules():
            if isinstance(layer, _BatchNorm):
                for parameter in layer.parameters(recurse=False):
                    parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "SegmentationNetwork":
        """As nn.Module.train, but frozen batch norm stays in evaluation mode."""
        super().train(mode)
        if self.batch_norm_is_frozen:
            for layer in self.trunk.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        return self


def scaled(images_B3HW: Tensor, scale: float) -> Tensor:
    """The images at `scale` times their size, or themselves."""
    if scale == 1:
        return images_B3HW
    return F.interpolate(images_B3HW, scale_factor=scale, mode="bilinear", align_corners=False)


def enlarged(scores_BLhw: Tensor, like_BLhw: Tensor) -> Tensor:
    """The scores at the resolution of others."""
    size = like_BLhw.shape[-2:]
    return F.interpolate(scores_BLhw, size=size, mode="bilinear", align_corners=False)
