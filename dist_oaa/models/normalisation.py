"""Input normalisation, on the device and outside the model.

Shape legend: B images, 3 colours, H rows, W columns.
"""

from dataclasses import dataclass

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Normalisation:
    """(x / 255 - mean) / std for each colour.

    Since zero is the mean colour afterwards, it is also what padding and occlusion fill in.
    """

    mean: Triple
    """Mean of the 0..1 values, in the order in which the model takes the colours."""
    std: Triple
    """Deviation of the 0..1 values, in the same order."""
    bgr: bool = False
    """Whether the model takes blue, green, red."""

    def apply(self, images_B3HW: Tensor, extent_B2: Tensor | None = None) -> Tensor:
        """RGB images, uint8 or float from 0 to 255 -> normalised float32 for the model.

        Args:
            images_B3HW: on any device; the result is on the same one.
            extent_B2: int64 valid (height, width) of each image in pixels; the padding beyond it
                becomes 0, the mean colour. None leaves every pixel as it is.
        """
        order = (2, 1, 0) if self.bgr else (0, 1, 2)
        # Numbers instead of a mean tensor: nothing has to be copied to the device.
        planes = [
            (images_B3HW[:, colour].float() / 255 - mean) / std
            for colour, mean, std in zip(order, self.mean, self.std, strict=True)
        ]
        out_B3HW = torch.stack(planes, dim=1)
        if extent_B2 is None:
            return out_B3HW
        mask_BHW = extent_mask(extent_B2, (images_B3HW.shape[-2], images_B3HW.shape[-1]))
        return torch.where(mask_BHW[:, None], out_B3HW, 0.0)

    def colour(self, value: float) -> tuple[float, ...]:
        """What a grey of 0 to 1 becomes, one number a colour in the model's order."""
        return tuple((value - mean) / std for mean, std in zip(self.mean, self.std, strict=True))


def extent_mask(extent_B2: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool (B, H, W), true in the first (height, width) rows and columns of each image."""
    rows_H = torch.arange(size[0], device=extent_B2.device)
    columns_W = torch.arange(size[1], device=extent_B2.device)
    return (rows_H < extent_B2[:, :1])[:, :, None] & (columns_W < extent_B2[:, 1:])[:, None, :]


NORMALISATIONS: dict[str, Normalisation] = {
    "imagenet": Normalisation(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD),
    "half": Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    # Caffe's VGG and ResNet: 0..255 values minus the BGR mean of ImageNet.
    "caffe": Normalisation(
        mean=(104.008 / 255, 116.669 / 255, 122.675 / 255),
        std=(1 / 255, 1 / 255, 1 / 255),
        bgr=True,
    ),
}
