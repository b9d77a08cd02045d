"""The network as it is exported: images in, an answer for every pixel out.

Shapes: B images, 3 colours, H x W pixels, L labels (background first).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_oaa.models.segmentation.network import SegmentationNetwork


class DeployedSegmenter(nn.Module):
    """Normalises, pads to whole cells, runs the network, and answers at the images' own size.

    Computes what `Scorer` does in one view of scale 1 without tiles.

    Args:
        network: in evaluation mode.
        output: probabilities, logits or labels.
    """

    def __init__(self, network: SegmentationNetwork, output: str) -> None:
        super().__init__()
        self.network = network
        self.output = output

    def forward(self, image: Tensor) -> Tensor:
        """uint8 RGB (B, 3, H, W) -> float32 (B, L, H, W), or uint8 (B, H, W) labels."""
        height, width = image.shape[-2], image.shape[-1]
        stride = self.network.stride
        rows, columns = whole_cells(height, stride), whole_cells(width, stride)
        row_H = torch.arange(rows, device=image.device)
        column_W = torch.arange(columns, device=image.device)
        # Picked rows and columns instead of F.pad and slices: those ask whether there is anything
        # to pad or to cut off, and an exported network of any size cannot know.
        padded = self.network.normalisation.apply(image)
        padded = padded.index_select(2, row_H.clamp(max=height - 1))
        padded = padded.index_select(3, column_W.clamp(max=width - 1))
        # 0 is the mean colour.
        padded = padded * ((row_H < height)[:, None] & (column_W < width)[None, :])
        logits = self.network(padded).float()
        if logits.shape[-2:] != padded.shape[-2:]:
            logits = F.interpolate(logits, size=(rows, columns), mode="bilinear")
        logits = logits.index_select(2, torch.arange(height, device=image.device))
        logits = logits.index_select(3, torch.arange(width, device=image.device))
        if self.output == "logits":
            return logits
        if self.output == "labels":
            return logits.argmax(dim=1).to(torch.uint8)
        return logits.softmax(dim=1)


def whole_cells(side: int, stride: int) -> int:
    """The side in pixels, rounded up to whole feature cells."""
    return (side + stride - 1) // stride * stride


def smallest_side(stride: int) -> int:
    """Least height and width, in pixels, of images for a network of any size.

    Two cells: a graph cannot be the same where a side has only one, since nothing is then between
    cells.
    """
    return max(32, stride + 1)
