"""Attention within a forward pass: what the erasing networks have in common.

None of these numbers depends on an image's batch mates or on its padding, and none is random.

Legend: B images, C classes, D channels, H x W feature cells, 1 a dimension to broadcast.
"""

import torch
from torch import Tensor

from dist_oaa.models.normalisation import extent_mask
from dist_oaa.models.online_cam import Erasing


def valid_places(cells_B2: Tensor | None, features_BDHW: Tensor) -> Tensor:
    """Bool (B, 1, H, W), true where the feature map shows the image and not its padding.

    Args:
        cells_B2: int64 valid (rows, columns) of each feature map; None means all.
    """
    batch, _, height, width = features_BDHW.shape
    if cells_B2 is None:
        return torch.ones(batch, 1, height, width, dtype=torch.bool, device=features_BDHW.device)
    return extent_mask(cells_B2, (height, width))[:, None]


def erased_classes(erasing: Erasing | None, logits_BC: Tensor, one_class: bool = False) -> Tensor:
    """Bool (B, C), the classes whose attention is erased: the image's labels where they are known.

    Where they are not, the classes that the network itself sees: those of positive score
    (p > 1/2), and in any case the one of the highest. The public code of wsolevaluation takes the
    highest too; its images have one class, and where ours do (`one_class`) only that is taken: the
    sign of a score says nothing before a softmax.
    """
    if erasing is not None:
        return erasing.labels_BC > 0
    highest_BC = logits_BC == logits_BC.amax(dim=1, keepdim=True)
    return highest_BC if one_class else (logits_BC > 0) | highest_BC


def own_peak(cam_BCHW: Tensor, valid_B1HW: Tensor) -> Tensor:
    """Eq. 2: ReLU(F) / max F of each map, float32; 0 beyond the image and where max F <= 0."""
    positive_BCHW = torch.where(valid_B1HW, cam_BCHW.float().relu(), 0.0)
    peak_BC11 = positive_BCHW.amax(dim=(2, 3), keepdim=True)
    # `<= 0` and not `> 0`: what is not a number must stay visible to those who count such maps.
    return positive_BCHW / torch.where(peak_BC11 <= 0, 1.0, peak_BC11)


def min_max(maps_BCHW: Tensor, valid_B1HW: Tensor) -> Tensor:
    """(F - min F) / (max F - min F) of each map, float32; 0 beyond the image and where constant."""
    maps_BCHW = maps_BCHW.float()
    low_BC11 = maps_BCHW.masked_fill(~valid_B1HW, torch.inf).amin(dim=(2, 3), keepdim=True)
    high_BC11 = maps_BCHW.masked_fill(~valid_B1HW, -torch.inf).amax(dim=(2, 3), keepdim=True)
    span_BC11 = high_BC11 - low_BC11
    scaled_BCHW = (maps_BCHW - low_BC11) / torch.where(span_BC11 <= 0, 1.0, span_BC11)
    return torch.where(valid_B1HW, scaled_BCHW, 0.0)


def union(maps_BCHW: Tensor, classes_BC: Tensor) -> Tensor:
    """(B, 1, H, W) maximum over some classes of each image; 0 for an image without any.

    Args:
        maps_BCHW: of 0 or more.
        classes_BC: bool, the classes that count.
    """
    return torch.where(classes_BC[:, :, None, None], maps_BCHW, 0.0).amax(dim=1, keepdim=True)
