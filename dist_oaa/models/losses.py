"""The classification loss.

Shape legend: B images, C classes.
"""

import torch.nn.functional as F
from torch import Tensor


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
