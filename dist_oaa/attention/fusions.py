"""Fusions: how an accepted attention joins the cumulative map.

A fusion is a function (previous, attention, t) -> next, elementwise in float32, where t counts
the accepted updates including this one and broadcasts against the maps. A new fusion is a
function and a line in FUSIONS.
"""

from collections.abc import Callable

import torch

Fusion = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def maximum(previous: torch.Tensor, attention: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """M_t = max(M_{t-1}, A_t) (Eq. 5)."""
    return torch.maximum(previous, attention)


def average(previous: torch.Tensor, attention: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """M_t = ((t - 1) M_{t-1} + A_t) / t (Eq. 10)."""
    return ((t - 1) * previous + attention) / t


FUSIONS: dict[str, Fusion] = {"max": maximum, "average": average}

# The numbers by which the Triton and C++ kernels know the fusions that they compute themselves.
FUSION_NUMBERS = {"max": 0, "average": 1}
