"""The classification losses, and how scores become probabilities.

Labels are of one of two kinds, as `model.labels` says:

    multi   C problems of their own: p_c = sigmoid(z_c), binary cross-entropy (Eq. 1)
    single  one class an image: p = softmax(z), cross-entropy

Shape legend: B images, C classes.
"""

import torch
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


def single_label_loss_B(logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
    """-log p of the image's class under the softmax.

    Args:
        logits_BC: scores before the softmax, of any float type.
        labels_BC: 1 for the one class of the image, 0 else, of any type.

    Returns:
        float32 (B,).
    """
    return F.cross_entropy(logits_BC.float(), labels_BC.float(), reduction="none")


LOSSES = {"multi": multilabel_loss_B, "single": single_label_loss_B}
"""By the kind of labels."""


def prediction_loss_B(predicted: Prediction, labels_BC: Tensor, kind: str = "multi") -> Tensor:
    """The loss of a classifier: that of its scores, and one equal term for each further branch.

    Args:
        kind: of the labels, multi or single.

    Returns:
        float32 (B,).
    """
    loss_of = LOSSES[kind]
    loss_B = loss_of(predicted.logits_BC, labels_BC)
    for logits_BC, targets_BC in predicted.extra:
        loss_B = loss_B + loss_of(logits_BC, targets_BC)
    return loss_B


def probabilities(logits_BC: Tensor, kind: str) -> Tensor:
    """p of each class, float32 (B, C), by the kind of labels."""
    return logits_BC.float().softmax(dim=1) if kind == "single" else logits_BC.float().sigmoid()


def log_odds(logits_BC: Tensor, kind: str) -> Tensor:
    """log p - log(1 - p) of each class, float32 (B, C): the score whose sigmoid is p.

    Of multi labels the logits themselves; of single ones infinite where p rounds to 1.
    """
    if kind == "multi":
        return logits_BC.float()
    log_p_BC = logits_BC.float().log_softmax(dim=1)
    return log_p_BC - torch.log(-torch.expm1(log_p_BC))
