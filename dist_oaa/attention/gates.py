"""Gates: which classes of which images may accumulate their attention in this step.

A gate is a function (logits_BC, labels_BC, tau) -> accept_BC (bool); it may ignore tau. Only the
target classes of its answer are read. A new gate is a function and a line in GATES. Scores
compare as logits: the sigmoid is monotone, but saturates to ties in float32.

A gate may also judge single cells: a line in CELL_GATES takes away, before attention is normalised,
what the class must not claim.
Legend: B images, C classes, HW feature cells.
"""

import math
from collections.abc import Callable

import torch

Gate = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def logit(tau: float) -> float:
    """The score whose sigmoid is tau, infinite for 0 and 1."""
    return math.log(tau / (1 - tau)) if 0 < tau < 1 else math.copysign(math.inf, tau - 0.5)


def strict(logits_BC: torch.Tensor, labels_BC: torch.Tensor, tau: float) -> torch.Tensor:
    """Accepts a class whose score is greater than that of every non-target class of its image."""
    others_BC = logits_BC.masked_fill(labels_BC.bool(), -torch.inf)
    highest_B1 = others_BC.amax(dim=1, keepdim=True)
    # Without any non-target class there is nothing to beat; NaN beats nothing.
    alone_B1 = labels_BC.bool().all(dim=1, keepdim=True)
    return (logits_BC > highest_B1) | (alone_B1 & ~logits_BC.isnan())


def topk(logits_BC: torch.Tensor, labels_BC: torch.Tensor, tau: float) -> torch.Tensor:
    """Accepts a class whose rank is within the image's number of targets (the public code)."""
    rank_BC = (logits_BC[:, None, :] > logits_BC[:, :, None]).sum(dim=2)
    return (rank_BC < labels_BC.bool().sum(dim=1, keepdim=True)) & ~logits_BC.isnan()


def prob(logits_BC: torch.Tensor, labels_BC: torch.Tensor, tau: float) -> torch.Tensor:
    """Accepts a class whose probability is at least tau."""
    return logits_BC >= logit(tau)


def accept_all(logits_BC: torch.Tensor, labels_BC: torch.Tensor, tau: float) -> torch.Tensor:
    """Accepts every class."""
    return torch.ones_like(logits_BC, dtype=torch.bool)


def contest(cam_BCHW: torch.Tensor, rho: float) -> torch.Tensor:
    """Takes a cell from each class that has less than rho of another class's attention there.

    The strict gate asks whether the class is the image's; this asks the same of every cell. It
    guards against early maps, which are much alike for all classes, and against one class's map
    spreading over another's object. NaN neither loses a cell nor wins one.

    Args:
        cam_BCHW: F before its ReLU, all classes of the images.
        rho: from 0 (every cell is kept) to 1 (only the strongest class keeps it).

    Returns:
        F, with 0 in the cells that a class has lost.
    """
    if cam_BCHW.shape[1] == 1:
        return cam_BCHW
    best_B2HW = cam_BCHW.topk(2, dim=1).values
    first_B1HW, second_B1HW = best_B2HW[:, :1], best_B2HW[:, 1:]
    others_BCHW = torch.where(cam_BCHW == first_B1HW, second_B1HW, first_B1HW)
    return torch.where(cam_BCHW < rho * torch.relu(others_BCHW), 0.0, cam_BCHW)


GATES: dict[str, Gate] = {
    "strict": strict,
    "topk": topk,
    "prob": prob,
    "none": accept_all,
    "contest": strict,
}

CellGate = Callable[[torch.Tensor, float], torch.Tensor]
CELL_GATES: dict[str, CellGate] = {"contest": contest}

# The numbers by which the Triton and C++ kernels know the gates that they compute themselves.
GATE_NUMBERS = {"strict": 0, "topk": 1, "prob": 2, "none": 3, "contest": 0}
