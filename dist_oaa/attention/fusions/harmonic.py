"""Harmonic fusion: the harmonic mean of all accepted attention, nearly an intersection.

A place must be attended every time: the mean t / (1/a_1 + ... + 1/a_t) of the attention a_1 ... a_t
is pulled down by a single small value. One zero would rule a place out for good, so the mean is
taken of FLOOR + (1 - FLOOR) a, from FLOOR to 1, and brought back to 0 to 1.
"""

import torch

from dist_oaa.attention.fusions.fusion import Fusion, Step

FLOOR = 1 / 255


def raised(attention: torch.Tensor) -> torch.Tensor:
    """0 to 1 -> FLOOR to 1."""
    return FLOOR + (1 - FLOOR) * attention


def harmonic(step: Step) -> torch.Tensor:
    """raised(M_t) = t / ((t - 1) / raised(M_{t-1}) + 1 / raised(A_t)); for maps from 0 to 1."""
    mean = step.t / ((step.t - 1) / raised(step.previous) + 1 / raised(step.attention))
    return ((mean - FLOOR) / (1 - FLOOR)).clamp(min=0)  # rounding must not lead below an empty map


HARMONIC = Fusion("harmonic", harmonic, needs_float=True)
