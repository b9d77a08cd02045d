"""The attention drop layer (Alg. 1 of the TPAMI paper): where to occlude an image.

A place is occluded where the union over the image's target classes of A_{t-1}, the attention of
the last accepted update, resized to the input, exceeds delta. A class that was never accepted has
no attention yet. The maps live in the frame of the whole image and are sampled through the
image's own geometry, all images of a batch in one call.
Legend: P pairs, B images, S map cells along a side, HW places of the input (pixels or features).
"""

import torch
import torch.nn.functional as F

from dist_oaa.attention.bank import MapBank, full_scale
from dist_oaa.attention.batch import Pairs


def last_attention(bank: MapBank, pairs: Pairs, images: int) -> torch.Tensor:
    """A_{t-1} of each image, the maximum over its target classes: float32 (B, S, S), 0 to 1."""
    last_PSS = bank.last_RSS[pairs.row_P].float() / full_scale(bank.dtype)
    union_BSS = last_PSS.new_zeros(images, bank.map_size, bank.map_size)
    owner_PSS = pairs.image_P[:, None, None].expand_as(last_PSS)
    return union_BSS.scatter_reduce_(0, owner_PSS, last_PSS, "amax")


def places(geometry_B23: torch.Tensor, extent_B2: torch.Tensor, shape: tuple[int, int]):
    """The points of the whole image that the places of the input show.

    Args:
        geometry_B23: whole image -> valid input, both normalised.
        extent_B2: valid rows and columns of each image.
        shape: rows and columns of the padded input.

    Returns:
        uv_BHW2 float32: (u, v), beyond [0, 1] over padding.
    """
    rows_H, columns_W = (
        torch.arange(size, device=extent_B2.device, dtype=torch.float32) + 0.5 for size in shape
    )
    y_BH1 = (rows_H / extent_B2[:, :1])[:, :, None]
    x_B1W = (columns_W / extent_B2[:, 1:])[:, None, :]
    a, b, c, d, e, f = geometry_B23.flatten(1).t()[:, :, None, None]
    # (x, y) = G (u, v, 1), solved for (u, v) by Cramer's rule.
    determinant = a * e - b * d
    x_BHW, y_BHW = x_B1W - c, y_BH1 - f
    u_BHW = (e * x_BHW - b * y_BHW) / determinant
    v_BHW = (a * y_BHW - d * x_BHW) / determinant
    return torch.stack([u_BHW, v_BHW], dim=3)


@torch.no_grad()
def occlusion(
    bank: MapBank,
    pairs: Pairs,
    chosen_B: torch.Tensor,
    geometry_B23: torch.Tensor,
    extent_B2: torch.Tensor,
    shape: tuple[int, int],
    delta: float,
) -> torch.Tensor:
    """Where the chosen images are occluded.

    Args:
        chosen_B: bool: images that the coin fell for.
        geometry_B23, extent_B2, shape: as in `places`; pixels, or features with their cells.

    Returns:
        bool (B, H, W); false over padding.
    """
    union_BSS = last_attention(bank, pairs, len(chosen_B))
    grid_BHW2 = 2 * places(geometry_B23, extent_B2, shape) - 1
    # Half-pixel centres and the border's value beyond the outermost cells' centres, as everywhere.
    attention_BHW = F.grid_sample(
        union_BSS[:, None], grid_BHW2, padding_mode="border", align_corners=False
    )[:, 0]
    rows_H, columns_W = (torch.arange(size, device=extent_B2.device) for size in shape)
    valid_BHW = (rows_H < extent_B2[:, :1])[:, :, None] & (columns_W < extent_B2[:, 1:])[:, None]
    return (attention_BHW > delta) & valid_BHW & chosen_B[:, None, None]
