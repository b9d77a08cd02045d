"""What is trained: a network with its optimiser."""

from dataclasses import dataclass

import torch

from dist_oaa.runtime.exact_step import ExactStep


@dataclass
class Trainable:
    """A network with its optimiser."""

    model: torch.nn.Module
    """The bare network, on the device; its state is saved."""
    wrapped: torch.nn.Module
    """The same network as it is called: compiled, under DDP."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    exact: ExactStep | None = None
    """With `optim.exact_elastic` what takes the place of DDP."""
