"""What an update needs to know of a batch, and what it answers.

Legend: B images, C classes, P pairs of (image of the batch, target class), HW feature cells.
"""

from dataclasses import dataclass

import torch


@dataclass
class Pairs:
    """The (image, target class) pairs of a batch and the bank rows that they own."""

    image_P: torch.Tensor
    """int64: index into the batch."""
    class_P: torch.Tensor
    """int64: class index."""
    row_P: torch.Tensor
    """int64: row of the bank, each at most once."""

    @classmethod
    def from_labels(cls, labels_BC: torch.Tensor, first_row_B: torch.Tensor) -> "Pairs":
        """Pairs of all target classes; image b's classes own consecutive rows from first_row_B.

        Host tensors: here it is free to see that no row occurs twice; two writers would race.
        """
        image_P, class_P = labels_BC.nonzero(as_tuple=True)
        order_BC = labels_BC.long().cumsum(dim=1) - 1
        row_P = first_row_B[image_P] + order_BC[image_P, class_P]
        assert len(set(row_P.tolist())) == len(row_P), "a row occurs twice in one update"
        return cls(image_P, class_P, row_P)

    def to(self, device: torch.device) -> "Pairs":
        """The same pairs on another device."""
        moved = (t.to(device, non_blocking=True) for t in (self.image_P, self.class_P, self.row_P))
        return Pairs(*moved)

    def __len__(self) -> int:
        return len(self.row_P)


@dataclass
class Observation:
    """One batch's attention, as the classifier sees it."""

    cam_BCHW: torch.Tensor
    """F: output of the class-aware convolution, any float dtype and strides."""
    logits_BC: torch.Tensor
    """Class scores before the sigmoid."""
    labels_BC: torch.Tensor
    """uint8: 1 for target classes."""
    geometry_B23: torch.Tensor
    """float32: whole image -> valid input, both normalised (see data/geometry.py)."""
    cells_B2: torch.Tensor
    """int64: valid rows and columns of the feature map; the rest is padding."""
    pairs: Pairs


@dataclass(frozen=True)
class Rules:
    """How attention is accepted and fused."""

    gate: str = "strict"
    tau: float = 0.5
    fusion: str = "max"
    fallback: bool = False
    """This is the last epoch: a pair that was never accepted takes this attention ungated."""
    rho: float = 0.5
    """Share of another class's attention that a class needs to keep a cell (gate `contest`)."""


@dataclass
class Outcome:
    """What happened to each pair."""

    flags_3P: torch.Tensor
    """bool: accepted, fallback and broken, as the properties tell."""

    @classmethod
    def of(cls, accepted_P: torch.Tensor, fallback_P: torch.Tensor, broken_P: torch.Tensor):
        """From one bool vector each."""
        return cls(torch.stack([accepted_P, fallback_P, broken_P]))

    @property
    def accepted_P(self) -> torch.Tensor:
        """bool: passed the gate and was fused."""
        return self.flags_3P[0]

    @property
    def fallback_P(self) -> torch.Tensor:
        """bool: failed the gate, had never passed it, and took this attention in the last epoch."""
        return self.flags_3P[1]

    @property
    def broken_P(self) -> torch.Tensor:
        """bool: NaN or infinite attention: left alone."""
        return self.flags_3P[2]
