"""ADL: Attention-based Dropout Layer for Weakly Supervised Object Localization, CVPR 2019.

A layer without parameters on a feature map x, in training only. With a the mean of x over its
channels, the map is multiplied by one of two masks:

    importance  sigmoid(a), which rewards what is attended to
    drop        0 where a >= gamma * max a, else 1, which hides what is attended to most

A coin falls for the drop mask with the probability `rate`. The gradient flows through x and
through sigmoid(a), not through the comparison. The network, its loss and its maps are those of
the plain classifier. Sources: the public code of the authors (junsukchoe/ADL, TensorFlow) and of
wsolevaluation.

What is this project's own: the coin is thrown for each image, not for each batch, and is a
function of (seed, epoch, image name), so that it depends on no batch mate and on no rank. Of the
papers' places the last is kept, the trunk's feature map, since a trunk may be any of timm's; the
head's last feature map, before the class-aware convolution, is offered beside it; it comes from a
ReLU, as in the paper, also where a trunk's does not (the EfficientNets end in a linear layer). A
feature map whose mean is nowhere positive loses nothing.

Legend: B images, D channels, H x W feature cells, 1 a dimension to broadcast.
"""

import torch
from torch import Tensor

from dist_oaa.config.model import EraseConfig
from dist_oaa.models.backbones import Trunk
from dist_oaa.models.online_cam import Erasing, OnlineCAMClassifier, Prediction, masked_mean
from dist_oaa.models.variants.attention import valid_places

SECOND_COIN = 4096


def attention_dropout(
    features_BDHW: Tensor, valid_B1HW: Tensor, drops_B: Tensor, gamma: float
) -> Tensor:
    """The layer: features of the same shape and type.

    Args:
        features_BDHW: x.
        valid_B1HW: bool, the cells over which the maximum is taken.
        drops_B: bool, the images that get the drop mask; the others get the importance map.
        gamma: share of the maximum from which a cell is dropped, 0 to 1.
    """
    attention_B1HW = features_BDHW.float().mean(dim=1, keepdim=True)
    fixed_B1HW = attention_B1HW.detach()
    peak_B111 = fixed_B1HW.masked_fill(~valid_B1HW, -torch.inf).amax(dim=(2, 3), keepdim=True)
    dropped_B1HW = (fixed_B1HW < gamma * peak_B111).float()
    mask_B1HW = torch.where(
        drops_B[:, None, None, None], dropped_B1HW, torch.sigmoid(attention_B1HW)
    )
    return features_BDHW * mask_B1HW.to(features_BDHW.dtype)


class ADL(OnlineCAMClassifier):
    """The plain classifier with the layer at the places of `erase.adl_where`."""

    def __init__(
        self,
        trunk: Trunk,
        num_classes: int,
        head_channels: int,
        head_layers: int,
        erase: EraseConfig,
    ) -> None:
        super().__init__(trunk, num_classes, head_channels, head_layers)
        self.gamma, self.rate = erase.adl_gamma, erase.adl_rate
        self.at_features = erase.adl_where in ("features", "both")
        self.at_head = erase.adl_where in ("head", "both")

    def predict(
        self, features_BDHW: Tensor, cells_B2: Tensor | None, erasing: Erasing | None
    ) -> Prediction:
        """As the plain classifier, of features that have passed the layer in training."""
        if not self.training or erasing is None:
            return super().predict(features_BDHW, cells_B2, None)
        valid_B1HW = valid_places(cells_B2, features_BDHW)
        if self.at_features:
            drops_B = erasing.chance_B < self.rate
            features_BDHW = attention_dropout(features_BDHW, valid_B1HW, drops_B, self.gamma)
        for layer in self.head:
            if self.at_head and layer is self.head.class_aware:
                # A coin of its own: the low digits of the same number know nothing of the high.
                drops_B = (erasing.chance_B * SECOND_COIN) % 1 < self.rate
                features_BDHW = attention_dropout(features_BDHW, valid_B1HW, drops_B, self.gamma)
            features_BDHW = layer(features_BDHW)
        return Prediction(masked_mean(features_BDHW, cells_B2), features_BDHW)
