"""The classification losses.

Shape legend: B images, C classes.
"""

import torch.nn.functional as F
from torch import Tensor

from dist_oaa.models.online_cam import Prediction


def multilabel_loss_B(logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
    """Eq. 1's loss: C binary cross-entropies, their mean over the classes of each image.

    Args:
        logits_BC: scores before the sigmoid, of any float type.
        labels_BC: 1 for a class of the image, 0 else, of any type.

    Returns:
        float32 (B,). The mean over images is the caller's: only it knows the global batch.
    """
    loss_BC = F.binary_cross_entropy_with_logits(
        logits_BC.float(), labels_BC.float(), reduction="none"
    )
    return loss_BC.mean(dim=1)


def prediction_loss_B(predicted: Prediction, labels_BC: Tensor) -> Tensor:
    """The loss of a classifier: that of its scores, and one equal term for each further branch.

    Returns:
        float32 (B,).
    """
    loss_B = multilabel_loss_B(predicted.logits_BC, labels_BC)
    for logits_BC, targets_BC in predicted.extra:
        loss_B = loss_B + multilabel_loss_B(logits_BC, targets_BC)
    return loss_B
