"""Maximum fusion (Eq. 5), the papers' own: a place once attended stays attended."""

import torch

from dist_oaa.attention.fusions.fusion import Fusion, Step


def maximum(step: Step) -> torch.Tensor:
    """M_t = max(M_{t-1}, A_t)."""
    return torch.maximum(step.previous, step.attention)


MAXIMUM = Fusion("max", maximum)
