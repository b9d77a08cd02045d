"""The loss of the affinity network: neighbouring cells of one label are to look alike.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly
Supervised Semantic Segmentation" (CVPR 2018, PSA). The affinity of two cells is

    W_ij = exp(-d_ij),  d_ij = mean over the D channels of |f_i - f_j|          (their Eq. 5)

and the pairs of confident cells no farther apart than the radius are of three kinds: both
background, both of one object class, and of two labels. With the means over each kind

    loss = 1/4 mean -log W (background) + 1/4 mean -log W (object) + 1/2 mean -log(1 - W) (across)

Means are taken over one image, where the authors' code takes them over a batch: the loss of an
image then depends neither on its batch mates nor on how many ranks share a step.

Shape legend: B images, D channels, h x w cells, P pairs (offsets) of a cell.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Offsets = Sequence[tuple[int, int]]

BACKGROUND, OBJECT, ACROSS = 1, 2, 3
KINDS = (BACKGROUND, OBJECT, ACROSS)
"""Values of pair kinds; 0 is a pair that teaches nothing."""
WEIGHTS = (0.25, 0.25, 0.5)
UNKNOWN = 255
# Bounds -log(1 - W) where two cells are alike to the last digit (the value of the authors' code).
SMALLEST = 1e-5


class PairLoss(NamedTuple):
    """The loss of each image, and what its pairs were like."""

    loss_B: Tensor
    """float32; 0, attached, for an image without pairs."""
    pairs_3: Tensor
    """int64: pairs of each of KINDS in all images."""
    affinity_3: Tensor
    """float64: the sums of their affinities."""


def half_disc(radius: int) -> list[tuple[int, int]]:
    """Offsets (rows, columns) to all cells up to `radius` away, each pair of cells once.

    That is, half of the disc: cells below, and in the same row those to the right.
    """
    return [
        (dy, dx)
        for dy in range(radius + 1)
        for dx in range(-radius if dy else 1, radius + 1)
        if dy * dy + dx * dx <= radius * radius
    ]


def pair_slices(
    offset: tuple[int, int], height: int, width: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Rows and columns of the first and of the second cells of all pairs with this offset."""
    dy, dx = offset
    rows = slice(0, max(0, height - dy)), slice(dy, height)
    left, right = slice(0, max(0, width - abs(dx))), slice(min(abs(dx), width), width)
    columns = (left, right) if dx >= 0 else (right, left)
    return (rows[0], columns[0]), (rows[1], columns[1])


class _Distances(torch.autograd.Function):
    """Distances offset by offset, with the differences computed again in the backward pass.

    Plain autograd would keep every difference: P times the features, a gigabyte for 16 images.
    """

    @staticmethod
    def forward(ctx, features_BDhw: Tensor, offsets: Offsets) -> Tensor:
        batch, _, height, width = features_BDhw.shape
        ctx.save_for_backward(features_BDhw)
        ctx.offsets = offsets
        out_BPhw = features_BDhw.new_zeros(batch, len(offsets), height, width)
        for p, offset in enumerate(offsets):
            first, second = pair_slices(offset, height, width)
            apart = features_BDhw[..., *first] - features_BDhw[..., *second]
            out_BPhw[:, p, *first] = apart.abs_().mean(dim=1)
        return out_BPhw

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BPhw: Tensor) -> tuple[Tensor, None]:
        (features_BDhw,) = ctx.saved_tensors
        _, channels, height, width = features_BDhw.shape
        out_BDhw = torch.zeros_like(features_BDhw)
        for p, offset in enumerate(ctx.offsets):
            first, second = pair_slices(offset, height, width)
            apart = features_BDhw[..., *first] - features_BDhw[..., *second]
            part = apart.sign_().mul_(grad_BPhw[:, p, *first].unsqueeze(1) / channels)
            out_BDhw[..., *first] += part
            out_BDhw[..., *second] -= part
        return out_BDhw, None


def pair_distances(features_BDhw: Tensor, offsets: Offsets) -> Tensor:
    """d of each cell and the one that lies `offset` from it, (B, P, h, w); 0 where none does.

    Half precision is computed in float32.
    """
    wide = torch.promote_types(features_BDhw.dtype, torch.float32)
    return _Distances.apply(features_BDhw.to(wide), offsets)


def pair_kinds(cells_Bhw: Tensor, offsets: Offsets) -> Tensor:
    """Which of KINDS each pair is, uint8 (B, P, h, w); 0 where a cell is unknown or missing.

    Args:
        cells_Bhw: uint8 labels of the cells: 0 background, class index + 1, 255 unknown.
    """
    batch, height, width = cells_Bhw.shape
    kinds_BPhw = cells_Bhw.new_zeros(batch, len(offsets), height, width)
    for p, offset in enumerate(offsets):
        first, second = pair_slices(offset, height, width)
        one, other = cells_Bhw[:, *first], cells_Bhw[:, *second]
        known = (one != UNKNOWN) & (other != UNKNOWN)
        same = torch.where(one == 0, BACKGROUND, OBJECT)
        kinds = torch.where(known, torch.where(one == other, same, ACROSS), 0)
        kinds_BPhw[:, p, *first] = kinds.to(torch.uint8)
    return kinds_BPhw


def affinity_loss(features_BDhw: Tensor, cells_Bhw: Tensor, radius: int) -> PairLoss:
    """The loss of each image, a kind of which it has no pair adding 0.

    Args:
        features_BDhw: f, of any float type.
        cells_Bhw: uint8 labels of the cells: 0 background, class index + 1, 255 unknown; on the
            same device.
        radius: cells up to this distance apart are compared, in cells.

    Raises:
        ValueError: features and labels of different grids.
    """
    if features_BDhw.shape[2:] != cells_Bhw.shape[1:]:
        raise ValueError(
            f"features of {tuple(features_BDhw.shape)} and labels of {tuple(cells_Bhw.shape)} "
            "are not of one grid"
        )
    offsets = half_disc(radius)
    distance_BPhw = pair_distances(features_BDhw, offsets)
    kinds_BPhw = pair_kinds(cells_Bhw, offsets)
    loss_B = features_BDhw.sum(dim=(1, 2, 3)).to(distance_BPhw.dtype) * 0.0
    pairs, affinities = [], []
    for kind, weight in zip(KINDS, WEIGHTS, strict=True):
        chosen_BPhw = kinds_BPhw == kind
        term_BPhw = distance_BPhw  # -log W
        if kind == ACROSS:
            # Chosen first: the logarithm's gradient at the other pairs, many of them at 0, would
            # be multiplied by 0 only after it had become large.
            apart_BPhw = torch.where(chosen_BPhw, distance_BPhw, 1.0)
            term_BPhw = -torch.log(SMALLEST - torch.expm1(-apart_BPhw))
        count_B = chosen_BPhw.sum(dim=(1, 2, 3))
        sum_B = torch.where(chosen_BPhw, term_BPhw, 0.0).sum(dim=(1, 2, 3))
        loss_B = loss_B + weight * sum_B / count_B.clamp(min=1)
        pairs.append(count_B.sum())
        affinity_BPhw = torch.exp(-distance_BPhw.detach())
        affinities.append(torch.where(chosen_BPhw, affinity_BPhw, 0.0).sum(dtype=torch.float64))
    return PairLoss(loss_B, torch.stack(pairs), torch.stack(affinities))
