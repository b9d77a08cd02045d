"""Average fusion (Eq. 10): the mean of all accepted attention."""

import torch

from dist_oaa.attention.fusions.fusion import Fusion, Step


def average(step: Step) -> torch.Tensor:
    """M_t = ((t - 1) M_{t-1} + A_t) / t."""
    return ((step.t - 1) * step.previous + step.attention) / step.t


AVERAGE = Fusion("average", average, needs_float=True)
