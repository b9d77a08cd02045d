"""The losses of a segmentation network.

Every mean is taken over one image, never over a batch: the loss of an image then depends neither
on its batch mates nor on how many ranks share a step.

Shape legend: B images, L label channels (background first), H x W pixels, h x w cells.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = 255


def segmentation_loss_B(
    logits_BLhw: Tensor | Sequence[Tensor],
    labels_BHW: Tensor,
    kind: str = "ce",
    resize: str = "logits",
) -> Tensor:
    """The loss of each image; 0, with a zero gradient, where nothing of it is labelled.

    Args:
        logits_BLhw: scores before the softmax, of any float type; half precision is computed in
            float32. Several of them (a network with several input scales) give the sum of their
            losses, as in DeepLabv2.
        labels_BHW: integers, 0 the background, 1 to L - 1 the classes, 255 ignored.
        kind: ce is the cross-entropy, its mean over the labelled pixels. balanced is the mean of
            two such means, over the background and over all classes together; where an image has
            only one of them, it is that one (Kolesnikov & Lampert, ECCV 2016, balance their seeds
            in the same way, and Ahn & Kwak, CVPR 2018, their pairs).
        resize: logits enlarges the scores to the labels (bilinear); labels shrinks the labels to
            the scores (nearest), as the Caffe networks do: less memory, coarser edges.

    Returns:
        (B,) float32, or float64 for float64 logits.
    """
    if not isinstance(logits_BLhw, Tensor):
        losses = [segmentation_loss_B(part, labels_BHW, kind, resize) for part in logits_BLhw]
        return torch.stack(losses).sum(dim=0)
    logits_BLhw = logits_BLhw.to(torch.promote_types(logits_BLhw.dtype, torch.float32))
    if logits_BLhw.shape[-2:] != labels_BHW.shape[-2:]:
        logits_BLhw, labels_BHW = same_size(logits_BLhw, labels_BHW, resize)
    labels_BHW = labels_BHW.long()
    pixel_BHW = F.cross_entropy(logits_BLhw, labels_BHW, ignore_index=IGNORED, reduction="none")
    if kind == "ce":
        return mean_B(pixel_BHW, labels_BHW != IGNORED)
    assert kind == "balanced", kind
    background_BHW = labels_BHW == 0
    object_BHW = (labels_BHW != 0) & (labels_BHW != IGNORED)
    parts_B = background_BHW.any(dim=2).any(dim=1).int() + object_BHW.any(dim=2).any(dim=1).int()
    sum_B = mean_B(pixel_BHW, background_BHW) + mean_B(pixel_BHW, object_BHW)
    return sum_B / parts_B.clamp(min=1)


def mean_B(pixel_BHW: Tensor, chosen_BHW: Tensor) -> Tensor:
    """The mean of the chosen pixels of each image, 0 where there are none."""
    sum_B = torch.where(chosen_BHW, pixel_BHW, 0.0).sum(dim=(1, 2))
    return sum_B / chosen_BHW.sum(dim=(1, 2)).clamp(min=1)


def same_size(logits_BLhw: Tensor, labels_BHW: Tensor, resize: str) -> tuple[Tensor, Tensor]:
    """Scores and labels of one size: see `segmentation_loss_B`."""
    if resize == "logits":
        size = labels_BHW.shape[-2:]
        enlarged = F.interpolate(logits_BLhw, size=size, mode="bilinear", align_corners=False)
        return enlarged, labels_BHW
    assert resize == "labels", resize
    # nearest-exact takes the pixel at the middle of a cell; plain nearest its top left corner.
    # Labels up to 255 are exact in float32, the type that interpolation knows everywhere.
    size = logits_BLhw.shape[-2:]
    shrunk_B1HW = F.interpolate(labels_BHW[:, None].float(), size=size, mode="nearest-exact")
    return logits_BLhw, shrunk_B1HW[:, 0].long()
