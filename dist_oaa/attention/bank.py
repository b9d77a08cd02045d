"""The maps of one rank, resident on its device.

Legend: R rows, one a pair (image, target class); S cells along each side of a map; Q the S * S
cells of a map, padded.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch

DTYPES = {"uint8": torch.uint8, "float16": torch.float16, "float32": torch.float32}
# Maps begin at multiples of this many elements, so that kernels load and store whole vectors.
ALIGNMENT = 16


def full_scale(dtype: torch.dtype) -> float:
    """The stored value that stands for attention 1: uint8 maps hold round(255 a)."""
    return 255.0 if dtype == torch.uint8 else 1.0


@dataclass
class MapBank:
    """Cumulative maps, last attention and counters of R pairs.

    A row belongs to exactly one (image, class) pair and every image to exactly one rank, so that
    updates need neither locks nor atomics.
    """

    grid_R2Q: torch.Tensor
    """M_t and A_{t-1} of each row, side by side since they are read and written together; cells
    in raster order, followed by padding that stays zero."""
    map_size: int
    """S, the cells along each side."""
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

        pitch = -(-map_size * map_size // ALIGNMENT) * ALIGNMENT
        grid_R2Q = _zeros((rows, 2, pitch), dtype, torch.device(device))
        return cls(grid_R2Q, map_size, flags(torch.int32), flags(torch.bool), flags(torch.bool))

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the maps."""
        return self.grid_R2Q.dtype

    @property
    def maps_RSS(self) -> torch.Tensor:
        """M_t: the cumulative map over the whole image, a view."""
        return self._view(0)

    @property
    def last_RSS(self) -> torch.Tensor:
        """A_{t-1}: the attention of the last accepted update, a view."""
        return self._view(1)

    def _view(self, half: int) -> torch.Tensor:
        size = self.map_size
        return self.grid_R2Q[:, half, : size * size].unflatten(1, (size, size))

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that changes, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "map_size"}

    def to(self, device: torch.device | str) -> "MapBank":
        """The same bank on a device."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return MapBank(map_size=self.map_size, **moved)

    def attention(self, rows_P: torch.Tensor) -> torch.Tensor:
        """Cumulative maps of some rows as float32 in [0, 1], shape (P, S, S)."""
        return self.maps_RSS[rows_P].float() / full_scale(self.dtype)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros; on the CPU from numpy, in pages that the system gives when they are first touched.

    numpy asks for huge pages, and rows are visited in random order: that saves time where the bank
    is far larger than what the processor's page tables cache (docs/experiments.md).
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size, line = math.prod(shape) * dtype.itemsize, 64
    raw = np.zeros(size + line, np.uint8)
    start = -raw.ctypes.data % line
    return torch.from_numpy(raw[start : start + size]).view(dtype).view(shape)
