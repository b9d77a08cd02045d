"""What a fusion is: how an accepted attention joins the cumulative map.

A fusion of your own is a function of one Step and a Fusion that names it, in any module that
Python can import; `accumulate.fusion: my_package.my_module:MY_FUSION` then selects it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch


class Step(NamedTuple):
    """What a fusion may look at; float32 tensors that broadcast against each other.

    Maps are in the units in which they are stored: 0 to 255 in a uint8 bank, else 0 to 1.
    """

    previous: torch.Tensor
    """M_{t-1}; zero before the first accepted update."""
    attention: torch.Tensor
    """A_t, quantised as it would be stored."""
    last: torch.Tensor
    """A_{t-1}: the attention of the accepted update before; zero before the first."""
    t: torch.Tensor
    """The number of accepted updates, this one included."""


class Fusion(NamedTuple):
    """A fusion with its name."""

    name: str
    function: Callable[[Step], torch.Tensor]
    """M_t, elementwise and on any device; what is not representable is cut off when stored."""
    needs_float: bool = False
    """Whether rounding M to bytes at every update would bias it: then maps are float32."""
