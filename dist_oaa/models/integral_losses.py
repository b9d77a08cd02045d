"""The losses of the integral attention model, which learns maps as soft labels of cells.

p is the target of a cell and class, q = sigmoid(F) what the network says of it.

    mce     Eq. 6  -mean(p log q + (1 - p) log(1 - q)) over all classes and cells
    ep      Eq. 7  -(1 / #N+) sum over N+ of p log q, N+ the cells with p > tau
    (8)            -(1 / #N-) sum over N- of log(1 - q), N- the other cells: the constraint loss
    hybrid  Eq. 9  Eq. 7 + Eq. 8

Every mean is taken over one image, never over a batch: the loss of an image then depends neither
on its batch mates nor on how many ranks share a step. log q is logsigmoid(F), finite for any F.

Shape legend: B images, C classes, H x W feature cells.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def integral_loss_B(
    cam_BCHW: Tensor,
    target_BCHW: Tensor,
    counted_BCHW: Tensor,
    loss: str = "hybrid",
    threshold: float = 0.0,
    normalise: str = "pooled",
) -> Tensor:
    """The loss of each image.

    Args:
        cam_BCHW: F, raw, of any float type; half precision is computed in float32.
        target_BCHW: p, 0 to 1.
        counted_BCHW: bool; what is false there (padding) has neither loss nor gradient.
        loss: mce, ep or hybrid.
        threshold: tau; a cell is in N+ where p > tau.
        normalise: pooled takes N+ and N- over all classes of the image together. per_class takes
            them for each class and then the mean over the image's counted classes: a class
            without N+ adds 0 to Eq. 7, and each absent class weighs in Eq. 8 as much as a
            present one. The mean, where Eq. 9 sums, keeps the scale of the other losses, so
            that one learning rate serves all.

    Returns:
        (B,) float32, or float64 for a float64 F; 0 for an image with nothing counted.
    """
    wide = torch.promote_types(cam_BCHW.dtype, torch.float32)
    # Before the logarithms: a gradient that is masked after them is 0 * NaN where F is broken.
    logit_BCHW = torch.where(counted_BCHW, cam_BCHW.to(wide), 0.0)
    p_BCHW = target_BCHW.to(wide)
    log_q_BCHW, log_rest_BCHW = F.logsigmoid(logit_BCHW), F.logsigmoid(-logit_BCHW)
    mean_B = {"pooled": pooled_mean_B, "per_class": per_class_mean_B}[normalise]
    if loss == "mce":
        return -mean_B(
            p_BCHW * log_q_BCHW + (1 - p_BCHW) * log_rest_BCHW, counted_BCHW, counted_BCHW
        )
    positive_BCHW = counted_BCHW & (p_BCHW > threshold)
    ep_B = -mean_B(p_BCHW * log_q_BCHW, positive_BCHW, counted_BCHW)
    if loss == "ep":
        return ep_B
    assert loss == "hybrid", loss
    return ep_B - mean_B(log_rest_BCHW, counted_BCHW & ~positive_BCHW, counted_BCHW)


def pooled_mean_B(term_BCHW: Tensor, chosen_BCHW: Tensor, counted_BCHW: Tensor) -> Tensor:
    """The mean of the chosen terms of each image over all its classes, 0 where there are none."""
    sum_B = torch.where(chosen_BCHW, term_BCHW, 0.0).sum(dim=(1, 2, 3))
    return sum_B / chosen_BCHW.sum(dim=(1, 2, 3)).clamp(min=1)


def per_class_mean_B(term_BCHW: Tensor, chosen_BCHW: Tensor, counted_BCHW: Tensor) -> Tensor:
    """The mean of the chosen terms of each class, 0 where there are none; then the classes' mean.

    Args:
        counted_BCHW: a class counts in the second mean where any of its cells is counted.
    """
    sum_BC = torch.where(chosen_BCHW, term_BCHW, 0.0).sum(dim=(2, 3))
    mean_BC = sum_BC / chosen_BCHW.sum(dim=(2, 3)).clamp(min=1)
    return mean_BC.sum(dim=1) / counted_BCHW.any(dim=3).any(dim=2).sum(dim=1).clamp(min=1)
