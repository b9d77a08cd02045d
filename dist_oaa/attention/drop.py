"""The attention drop layer (Alg. 1 of the TPAMI paper): where to occlude an image.

A place is occluded where the union over the image's target classes of A_{t-1}, the attention of
the last accepted update, resized to the input, exceeds delta. A class that was never accepted has
no attention yet. The maps live in the frame of the whole image and are sampled through the
image's own geometry, all images of a batch in one call.
Legend: P pairs, B images, S map cells along a side, HW places of the input (pixels or features).
"""

import torch

from dist_oaa.attention.bank import MapBank, full_scale
from dist_oaa.attention.batch import Pairs
from dist_oaa.attention.places import places, sampled, valid_places


def last_attention(bank: MapBank, pairs: Pairs, images: int) -> torch.Tensor:
    """A_{t-1} of each image, the maximum over its target classes: float32 (B, S, S), 0 to 1."""
    last_PSS = bank.last_RSS[pairs.row_P].float() / full_scale(bank.dtype)
    union_BSS = last_PSS.new_zeros(images, bank.map_size, bank.map_size)
    owner_PSS = pairs.image_P[:, None, None].expand_as(last_PSS)
    return union_BSS.scatter_reduce_(0, owner_PSS, last_PSS, "amax")


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
    attention_BHW = sampled(union_BSS, places(geometry_B23, extent_B2, shape))
    valid_BHW = valid_places(extent_B2, shape)
    return (attention_BHW > delta) & valid_BHW & chosen_B[:, None, None]
