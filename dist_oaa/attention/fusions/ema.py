"""Exponential moving average: old attention fades, so that immature epochs are forgotten."""

import torch

from dist_oaa.attention.fusions.fusion import Fusion, Step

DECAY = 0.7


def moving_average(step: Step) -> torch.Tensor:
    """M_1 = A_1; M_t = DECAY M_{t-1} + (1 - DECAY) A_t."""
    blended = DECAY * step.previous + (1 - DECAY) * step.attention
    return torch.where(step.t == 1, step.attention, blended)


EMA = Fusion("ema", moving_average, needs_float=True)
