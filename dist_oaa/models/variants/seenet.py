"""SeeNet: Self-Erasing Network for Integral Object Attention, NeurIPS 2018.

Three heads of the same form read the trunk. The attention of head A,

    M = max over the image's classes of minmax(ReLU(F_A)),

without a gradient, divides the image by a ternary mask into the core of the objects, what is
uncertain, and the background:

    T = 0 where M >= high, -1 where M < low, 1 else

and the other heads see C-ReLU(x) = max(x, 0) * T:

    head A  all features; target: the labels
    head B  the core erased, the background with its sign flipped; target: the labels
    head C  0 where M > background, the rest as it is; target: no class at all

The maps of heads A and B, each by Eq. 2, are joined by their maximum. Head C is for training only.
Sources: the authors' public code (houqb/SeeNet), which is for testing: there low is 0, so nothing
is flipped, as here in evaluation; head C and its threshold are those of a third party's training
code (Sakura03/SeeNet_Pytorch).

What is this project's own: the heads are those of the plain classifier, without dropout. While
head A attends to nothing in an image, nothing is known of its objects: head B then sees all of it
and head C nothing. In evaluation the classes are the labels where they are passed, which is what
the authors' code does, and else the classes that head A sees.

Legend: B images, C classes, D channels, H x W feature cells, 1 a dimension to broadcast.
"""

import torch
from torch import Tensor

from dist_oaa.config.model import EraseConfig
from dist_oaa.models.backbones import Trunk
from dist_oaa.models.online_cam import (
    Erasing,
    OnlineCAMClassifier,
    Prediction,
    make_head,
    masked_mean,
)
from dist_oaa.models.variants.attention import (
    erased_classes,
    min_max,
    own_peak,
    union,
    valid_places,
)


def ternary_mask(attention_B1HW: Tensor, valid_B1HW: Tensor, high: float, low: float) -> Tensor:
    """T as float32 (B, 1, H, W): 0, 1 or -1; 0 beyond the image, 1 in an image without attention.

    Args:
        attention_B1HW: M, 0 beyond the image.
        valid_B1HW: bool, the cells of the image.
        high: attention from which a cell is erased, 0 to 1.
        low: attention under which a cell is flipped, 0 to high.
    """
    attends_B111 = attention_B1HW.amax(dim=(2, 3), keepdim=True) > 0
    ternary_B1HW = torch.where(attention_B1HW < low, -1.0, (attention_B1HW < high).float())
    return torch.where(attends_B111, ternary_B1HW, 1.0) * valid_B1HW


def background_mask(attention_B1HW: Tensor, valid_B1HW: Tensor, most: float) -> Tensor:
    """Float32 (B, 1, H, W): 1 where M <= most, else 0; 0 also in an image without attention."""
    attends_B111 = attention_B1HW.amax(dim=(2, 3), keepdim=True) > 0
    return ((attention_B1HW <= most) & attends_B111 & valid_B1HW).float()


def c_relu(features_BDHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """C-ReLU(x) = max(x, 0) * T."""
    return features_BDHW.relu() * mask_B1HW.to(features_BDHW.dtype)


class SeeNet(OnlineCAMClassifier):
    """`head`, `erased_head`, `background_head` are heads A, B and C; the scores are head A's.

    The maps of a prediction are from 0 to 1, without a gradient, and 0 beyond the image.
    """

    def __init__(
        self,
        trunk: Trunk,
        num_classes: int,
        head_channels: int,
        head_layers: int,
        erase: EraseConfig,
    ) -> None:
        super().__init__(trunk, num_classes, head_channels, head_layers)
        self.high, self.low = erase.seenet_high, erase.seenet_low
        self.background = erase.seenet_background
        shape = (trunk.channels, num_classes, head_channels, head_layers)
        self.erased_head = make_head(*shape)
        self.background_head = make_head(*shape)
        self.reset_head()

    def predict(
        self, features_BDHW: Tensor, cells_B2: Tensor | None, erasing: Erasing | None
    ) -> Prediction:
        """Adds the scores of heads B and C with their targets in training."""
        cam_BCHW = self.head(features_BDHW)
        logits_BC = masked_mean(cam_BCHW, cells_B2)
        valid_B1HW = valid_places(cells_B2, features_BDHW)
        classes_BC = erased_classes(erasing, logits_BC)
        attention_B1HW = union(min_max(cam_BCHW.detach().relu(), valid_B1HW), classes_BC)
        low = self.low if self.training else 0.0
        ternary_B1HW = ternary_mask(attention_B1HW, valid_B1HW, self.high, low)
        erased_cam_BCHW = self.erased_head(c_relu(features_BDHW, ternary_B1HW))
        joined_BCHW = torch.maximum(
            own_peak(cam_BCHW.detach(), valid_B1HW), own_peak(erased_cam_BCHW.detach(), valid_B1HW)
        )
        if not self.training or erasing is None:
            return Prediction(logits_BC, joined_BCHW)
        rest_B1HW = background_mask(attention_B1HW, valid_B1HW, self.background)
        rest_BC = masked_mean(self.background_head(c_relu(features_BDHW, rest_B1HW)), cells_B2)
        extra = (
            (masked_mean(erased_cam_BCHW, cells_B2), erasing.labels_BC),
            (rest_BC, torch.zeros_like(erasing.labels_BC)),
        )
        return Prediction(logits_BC, joined_BCHW, extra)
