"""The maps of a step's pairs as they were before it, for a step that has to be taken back.

Legend: P pairs.
"""

from dataclasses import dataclass

import torch

from dist_oaa.attention.bank import MapBank


@dataclass
class RowsBefore:
    """Copies of some rows of a bank: maps, last attention, counters and whether they changed."""

    bank: MapBank
    row_P: torch.Tensor
    copies: dict[str, torch.Tensor]

    @classmethod
    def of(cls, bank: MapBank, row_P: torch.Tensor) -> "RowsBefore":
        """The rows as they are now; about 2 S^2 elements for each."""
        return cls(bank, row_P, {name: rows[row_P] for name, rows in bank.tensors().items()})

    def restore(self) -> None:
        """Puts the rows back, in place."""
        for name, rows in self.bank.tensors().items():
            rows[self.row_P] = self.copies[name]
