"""ACoL: Adversarial Complementary Learning for Weakly Supervised Object Localization, CVPR 2018.

Two heads of the same form read the trunk. Head A is a plain classifier. Where its attention

    M = (F_A - min F_A) / (max F_A - min F_A)

of the image's class is at least delta, the features become 0, and head B has to find the class in
what is left. Both are trained with the labels, and the maps of both are joined by their maximum.
Sources: the public code of the authors (xiaomengyc/ACoL) and of wsolevaluation.

What is this project's own: the heads are those of the plain classifier. Images have several
classes, so the erased attention is the maximum over them, and the losses are Eq. 1's (the authors'
softmax with `model.labels: single`). The joined
maps are normalised by Eq. 2 and not by min and max, so that 0 is no attention, as everywhere here.
In evaluation the erased classes are the labels where they are passed, which is what the authors'
code does, and else the classes that head A sees.

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


class ACoL(OnlineCAMClassifier):
    """`head` is head A, `erased_head` is head B; the scores are head A's.

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
        self.delta = erase.acol_delta
        self.erased_head = make_head(trunk.channels, num_classes, head_channels, head_layers)
        self.reset_head()

    def predict(
        self, features_BDHW: Tensor, cells_B2: Tensor | None, erasing: Erasing | None
    ) -> Prediction:
        """Adds head B's scores, with the labels as their targets, in training."""
        cam_BCHW = self.head(features_BDHW)
        logits_BC = masked_mean(cam_BCHW, cells_B2)
        valid_B1HW = valid_places(cells_B2, features_BDHW)
        classes_BC = erased_classes(erasing, logits_BC, self.one_class)
        kept_B1HW = self.kept(cam_BCHW.detach(), classes_BC, valid_B1HW)
        erased_cam_BCHW = self.erased_head(features_BDHW.masked_fill(~kept_B1HW, 0.0))
        joined_BCHW = torch.maximum(
            own_peak(cam_BCHW.detach(), valid_B1HW), own_peak(erased_cam_BCHW.detach(), valid_B1HW)
        )
        if not self.training or erasing is None:
            return Prediction(logits_BC, joined_BCHW)
        erased_BC = masked_mean(erased_cam_BCHW, cells_B2)
        return Prediction(logits_BC, joined_BCHW, ((erased_BC, erasing.labels_BC),))

    def kept(self, cam_BCHW: Tensor, classes_BC: Tensor, valid_B1HW: Tensor) -> Tensor:
        """Bool (B, 1, H, W), what head B sees: the places of the image with M < delta."""
        attention_B1HW = union(min_max(cam_BCHW, valid_B1HW), classes_BC)
        return valid_B1HW & (attention_B1HW < self.delta)
