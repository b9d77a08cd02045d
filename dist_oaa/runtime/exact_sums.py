"""Sums of gradients that are the same to the last bit, whoever adds up what, in whatever order.

Sums of floating-point numbers depend on their order, those of integers do not. A step's gradient
is the sum of the gradients of V virtual batches; for each parameter

    M     the largest magnitude in any of the V gradients (a maximum has no rounding), M < 2^e
    s     62 - ceil(log2 V) - e, at most 126
    x     -> trunc(x 2^s), an int64: a product with a power of two is exact in float32
    sum   -> float32 of the integer sum (rounded once, to nearest even), times 2^-s

No sum of V terms reaches 2^63, so none overflows. Each term is off by less than 2^-s, which is
M 2^-(60 - log2 V) or less: digits that a sum in float32 never had. The cap of 126 keeps 2^s a
float32; below it, gradients under 2^-126 vanish.

Legend: T parameters, V virtual batches.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

ABSENT = -1.0
"""Stands for the largest magnitude of a parameter that has no gradient."""
MOST_BITS = 62
LARGEST_SHIFT = 126

Gradients = Sequence[torch.Tensor | None]


def largest_magnitudes(gradients: Gradients) -> np.ndarray:
    """The largest magnitude of each gradient, float64 (T,): ABSENT for None, NaN where it has one.

    One transfer from the device for all of them.
    """
    found = [g for g in gradients if g is not None]
    largest_T = np.full(len(gradients), ABSENT)
    if found:
        there = [n for n, g in enumerate(gradients) if g is not None]
        norms = [torch.linalg.vector_norm(g.float(), math.inf) for g in found]
        largest_T[there] = torch.stack(norms).double().cpu().numpy()
    return largest_T


def can_be_summed(largest_T: np.ndarray, terms: int) -> bool:
    """Whether gradients of such magnitudes are finite, and so is the sum of `terms` of them."""
    # A comparison with NaN is false.
    return bool((largest_T <= float(np.finfo(np.float32).max) / terms).all())


def shifts(largest_T: np.ndarray, terms: int) -> list[int | None]:
    """s of each parameter, from the largest magnitudes over all terms; None for one without any."""
    headroom = MOST_BITS - (terms - 1).bit_length()
    _, exponent_T = np.frexp(largest_T)
    return [
        None if largest == ABSENT else min(LARGEST_SHIFT, headroom - int(exponent))
        for largest, exponent in zip(largest_T, exponent_T, strict=True)
    ]


class FixedPoint:
    """The int64 sums of all parameters in one flat tensor, which one all-reduce adds up.

    Args:
        parameters: float32, all on one device; they set sizes, shapes and order.
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self.parameters = list(parameters)
        ends = np.cumsum([0, *(p.numel() for p in self.parameters)]).tolist()
        self._flat = torch.zeros(ends[-1], dtype=torch.int64, device=self.parameters[0].device)
        # In the memory order of each parameter (channels last, perhaps), which its gradient shares.
        self._parts = [
            self._flat[start : start + p.numel()].as_strided(p.shape, p.stride(), start)
            for p, start in zip(self.parameters, ends, strict=False)
        ]

    def sum(self, terms: Sequence[Gradients], shift_T: Sequence[int | None]) -> torch.Tensor:
        """The integer sums of this rank's terms, int64 of the size of all parameters together.

        The terms' tensors are scaled in place and worthless afterwards.
        """
        self._flat.zero_()
        for gradients in terms:
            for part, gradient, shift in zip(self._parts, gradients, shift_T, strict=True):
                if gradient is not None:
                    part += gradient.float().mul_(2.0**shift).to(torch.int64)
        return self._flat

    def spread(self, shift_T: Sequence[int | None]) -> None:
        """Gives each parameter its gradient: the sums, as they now stand, turned back.

        A parameter without a gradient in any term has none, as after a plain backward pass.
        """
        for parameter, part, shift in zip(self.parameters, self._parts, shift_T, strict=True):
            parameter.grad = None
            if shift is not None:
                parameter.grad = part.to(torch.float32).mul_(2.0**-shift)
