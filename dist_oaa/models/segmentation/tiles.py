"""Large images in parts: where the tiles lie, and how much each says of a pixel.

Shape legend: H x W pixels of a tile.
"""

import math

import torch
from torch import Tensor


def tile_starts(length: int, tile: int, overlap: int, multiple: int) -> list[int]:
    """First pixels of the tiles along one side.

    Neighbours overlap by at least `overlap` pixels, the last tile ends where the side ends, and
    the tiles are spread as evenly as multiples of `multiple` allow.

    Args:
        length: of the side in pixels, a multiple of `multiple`.
        tile: length of a tile in pixels, a multiple of `multiple`.
        overlap: in pixels, at most tile - multiple.
        multiple: pixels per feature cell: cells of a tile and of the whole image then coincide.

    Returns:
        Multiples of `multiple`, ascending; [0] where one tile covers the side.
    """
    if length <= tile:
        return [0]
    assert length % multiple == 0, (length, multiple)
    assert tile % multiple == 0, (tile, multiple)
    cells, tile_cells = length // multiple, tile // multiple
    step = tile_cells - math.ceil(overlap / multiple)
    assert step >= 1, (tile, overlap, multiple)
    last = cells - tile_cells
    count = math.ceil(last / step) + 1
    return [last * number // (count - 1) * multiple for number in range(count)]


def ramp(length: int, overlap: int) -> Tensor:
    """Weight of each pixel along one side of a tile, (length,) float32, above 0 and at most 1.

    Rises as sin^2 over `overlap` pixels at both ends, where neighbours say something too: the
    weights of two that overlap by just that sum to 1, and the very end, where the network sees
    the tile's padding, hardly counts. A tile at the border of the image ramps there as well: the
    weights are divided by their sum.
    """
    from_end = torch.arange(length, dtype=torch.float32) + 0.5
    from_end = torch.minimum(from_end, from_end.flip(0))
    return torch.sin((from_end / max(overlap, 1)).clamp(max=1.0) * (math.pi / 2)).square()


def tile_weight_HW(height: int, width: int, overlap: int) -> Tensor:
    """Weight of each pixel of a tile: the product of its two ramps."""
    return ramp(height, overlap)[:, None] * ramp(width, overlap)[None, :]
