"""OAA and the hybrid loss in a single network (OAA++, TPAMI 2021, Section 4.5).

Two heads of the same form read the trunk:

    F1  `head`           classifies, by the mean of its maps (Eq. 1); its maps accumulate
    F2  `integral_head`  q = sigmoid(F2) learns the cumulative maps of F1 (Eq. 9)

Both losses reach the trunk; nothing of F2's reaches the maps that it learns. At test time F1 says
which class an image has and F2 where it is: sigmoid(F2) of that class is the attention.

No public code of it exists. What is this project's own: F2 learns the maps as they are right after
the step's attention has joined them, each divided by its own maximum, as the integral model does.

Legend: B images, C classes, D channels, H x W feature cells.
"""

from torch import Tensor

from dist_oaa.models.backbones import Trunk
from dist_oaa.models.online_cam import (
    Erasing,
    OnlineCAMClassifier,
    Prediction,
    make_head,
    masked_mean,
)


class TwoBranch(OnlineCAMClassifier):
    """The scores are F1's, the maps are F2's; what accumulates is `online_cam_BCHW`, F1's."""

    def __init__(
        self, trunk: Trunk, num_classes: int, head_channels: int, head_layers: int
    ) -> None:
        super().__init__(trunk, num_classes, head_channels, head_layers)
        self.integral_head = make_head(trunk.channels, num_classes, head_channels, head_layers)
        self.reset_head()

    def predict(
        self, features_BDHW: Tensor, cells_B2: Tensor | None, erasing: Erasing | None
    ) -> Prediction:
        """F1's scores and F2's maps; F1's alone in training while F2 does not learn yet."""
        online_BCHW = self.head(features_BDHW)
        logits_BC = masked_mean(online_BCHW, cells_B2)
        if self.training and erasing is not None and not erasing.second_branch:
            return Prediction(logits_BC, online_BCHW)
        cam_BCHW = self.integral_head(features_BDHW)
        if not self.training:
            # A rank without images joins the others with scores alone; DDP must see that F2 is
            # out of their graph.
            cam_BCHW = cam_BCHW.detach()
        return Prediction(logits_BC, cam_BCHW, online_cam_BCHW=online_BCHW)
