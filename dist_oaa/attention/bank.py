"""The maps of one rank, resident on its device.

Legend: R rows, one a pair (image, target class); S cells along each side of a map.
"""

from dataclasses import dataclass

import torch

DTYPES = {"uint8": torch.uint8, "float16": torch.float16, "float32": torch.float32}


def full_scale(dtype: torch.dtype) -> float:
    """The stored value that stands for attention 1: uint8 maps hold round(255 a)."""
    return 255.0 if dtype == torch.uint8 else 1.0


@dataclass
class MapBank:
    """Cumulative maps, last attention and counters of R pairs.

    A row belongs to exactly one (image, class) pair and every image to exactly one rank, so that
    updates need neither locks nor atomics.
    """

    maps_RSS: torch.Tensor
    """M_t: the cumulative map over the whole image."""
    last_RSS: torch.Tensor
    """A_{t-1}: the attention of the last accepted update."""
    accepted_R: torch.Tensor
    """int32: t, the number of accepted updates."""
    fallback_R: torch.Tensor
    """bool: the map is the ungated attention of the last epoch."""
    dirty_R: torch.Tensor
    """bool: changed since the last commit."""

    @classmethod
    def empty(cls, rows: int, map_size: int, dtype: torch.dtype, device="cpu") -> "MapBank":
        """A bank of R maps that are all zero and were never updated."""

        def flags(kind: torch.dtype) -> torch.Tensor:
            return torch.zeros(rows, dtype=kind, device=device)

        def maps() -> torch.Tensor:
            return torch.zeros(rows, map_size, map_size, dtype=dtype, device=device)

        return cls(maps(), maps(), flags(torch.int32), flags(torch.bool), flags(torch.bool))

    @property
    def map_size(self) -> int:
        """S, the cells along each side."""
        return self.maps_RSS.shape[-1]

    def attention(self, rows_P: torch.Tensor) -> torch.Tensor:
        """Cumulative maps of some rows as float32 in [0, 1], shape (P, S, S)."""
        return self.maps_RSS[rows_P].float() / full_scale(self.maps_RSS.dtype)
