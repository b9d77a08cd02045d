"""Which points of the whole image the cells or pixels of an input show, and what maps hold there.

Maps live in the frame of the whole image; a batch's inputs are flipped, cropped and padded.
Legend: B images, N maps, S map cells along a side, HW places of the input (pixels or features).
"""

import torch
import torch.nn.functional as F


def places(
    geometry_B23: torch.Tensor, extent_B2: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
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


def valid_places(extent_B2: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Bool (B, H, W): the first extent_B2 = (rows, columns) of each image; the rest is padding."""
    rows_H, columns_W = (torch.arange(size, device=extent_B2.device) for size in shape)
    return (rows_H < extent_B2[:, :1])[:, :, None] & (columns_W < extent_B2[:, 1:])[:, None]


def sampled(maps_NSS: torch.Tensor, uv_NHW2: torch.Tensor) -> torch.Tensor:
    """Float32 (N, H, W): what each map holds at its points, bilinearly.

    Half-pixel centres, and the border's value beyond the outermost cells' centres, as everywhere.
    """
    return F.grid_sample(
        maps_NSS[:, None].float(), 2 * uv_NHW2 - 1, padding_mode="border", align_corners=False
    )[:, 0]
