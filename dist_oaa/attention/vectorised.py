"""The update of reference.py for all pairs of a batch at once, in plain PyTorch.

Every float operation stands in the reference's order, so that uint8 maps are bit-equal to it.
Legend: P pairs, B images, HW padded feature cells, S map cells along a side, Q = S * S.
"""

import torch

from dist_oaa.attention.bank import MapBank, full_scale
from dist_oaa.attention.batch import Observation, Outcome, Rules
from dist_oaa.attention.fusions import Step, find_fusion
from dist_oaa.attention.gates import GATES
from dist_oaa.attention.reference import cell_centres, quantise


def attention_maps(
    cam_PHW: torch.Tensor,
    cells_P2: torch.Tensor,
    geometry_P23: torch.Tensor,
    size: int,
    scale_to: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Eq. 2 for P feature maps, sampled at the S x S cells of their whole images.

    Returns:
        values_PSS float32 in [0, scale_to]; inside_PSS bool: cell seen by the input;
        finite_P bool: no NaN or infinity among the valid features.
    """
    features_PHW, finite_P = _valid_features(cam_PHW, cells_P2)
    peak_P11 = features_PHW.amax(dim=(1, 2), keepdim=True)
    factor_P11 = torch.div(torch.full_like(peak_P11, scale_to), peak_P11)
    usable_P11 = (peak_P11 > 0) & torch.isfinite(factor_P11)
    factor_P11 = torch.where(usable_P11, factor_P11, 0.0)
    scaled_PHW = torch.clamp(torch.relu(features_PHW) * factor_P11, max=scale_to)
    values_PSS, inside_PSS = sample_maps(scaled_PHW, cells_P2, geometry_P23, size)
    return values_PSS, inside_PSS, finite_P


def _valid_features(
    cam_PHW: torch.Tensor, cells_P2: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features as float32 with padding and broken maps set to zero, and which maps are finite."""
    height, width = cam_PHW.shape[1:]
    rows_H = torch.arange(height, device=cam_PHW.device)
    columns_W = torch.arange(width, device=cam_PHW.device)
    valid_PHW = (rows_H[:, None] < cells_P2[:, 0, None, None]) & (
        columns_W < cells_P2[:, 1, None, None]
    )
    features_PHW = cam_PHW.float()
    finite_P = (torch.isfinite(features_PHW) | ~valid_PHW).all(dim=2).all(dim=1)
    keep_PHW = valid_PHW & finite_P[:, None, None]
    # Zero is neutral: Eq. 2 never looks below zero.
    return torch.where(keep_PHW, features_PHW, 0.0), finite_P


def sample_maps(
    maps_PHW: torch.Tensor, cells_P2: torch.Tensor, geometry_P23: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """P float32 maps of the network's input at the S x S cells of their whole images, bilinearly.

    Nothing is read beyond the valid cells.

    Returns:
        values_PSS; inside_PSS bool: cell seen by the input.
    """
    centres_S = cell_centres(size, maps_PHW.device)
    u_1S, v_S1 = centres_S[None, :], centres_S[:, None]
    g = geometry_P23[:, :, :, None, None]
    x_PSS = g[:, 0, 0] * u_1S + g[:, 0, 1] * v_S1 + g[:, 0, 2]
    y_PSS = g[:, 1, 0] * u_1S + g[:, 1, 1] * v_S1 + g[:, 1, 2]
    inside_PSS = (x_PSS >= 0) & (x_PSS <= 1) & (y_PSS >= 0) & (y_PSS <= 1)
    height_P11, width_P11 = cells_P2[:, 0, None, None], cells_P2[:, 1, None, None]
    zero = torch.zeros((), device=maps_PHW.device)
    column_PSS = torch.clamp(x_PSS * width_P11 - 0.5, zero, (width_P11 - 1).float())
    row_PSS = torch.clamp(y_PSS * height_P11 - 0.5, zero, (height_P11 - 1).float())
    left_PSS, top_PSS = column_PSS.floor(), row_PSS.floor()
    wx_PSS, wy_PSS = column_PSS - left_PSS, row_PSS - top_PSS
    left, top = left_PSS.long(), top_PSS.long()
    right = torch.minimum(left + 1, width_P11 - 1)
    bottom = torch.minimum(top + 1, height_P11 - 1)
    pitch = maps_PHW.shape[2]
    flat_PQ = maps_PHW.flatten(1)

    def at(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        return flat_PQ.gather(1, (row * pitch + column).flatten(1)).view(row.shape)

    upper_PSS = at(top, left) * (1 - wx_PSS) + at(top, right) * wx_PSS
    lower_PSS = at(bottom, left) * (1 - wx_PSS) + at(bottom, right) * wx_PSS
    return upper_PSS * (1 - wy_PSS) + lower_PSS * wy_PSS, inside_PSS


@torch.no_grad()
def update(bank: MapBank, seen: Observation, rules: Rules) -> Outcome:
    """Applies one batch to the bank, in place, for all pairs at once."""
    image_P, class_P, row_P = seen.pairs.image_P, seen.pairs.class_P, seen.pairs.row_P
    dtype = bank.dtype
    values_PSS, inside_PSS, finite_P = attention_maps(
        seen.cam_BCHW[image_P, class_P],
        seen.cells_B2[image_P],
        seen.geometry_B23[image_P],
        bank.map_size,
        full_scale(dtype),
    )
    stored_PSS = quantise(values_PSS, dtype)
    accept_BC = GATES[rules.gate](seen.logits_BC.float(), seen.labels_BC, rules.tau)
    count_P = bank.accepted_R[row_P]
    accepted_P = accept_BC[image_P, class_P] & finite_P
    fallback_P = ~accepted_P & finite_P & (count_P == 0)
    if not rules.fallback:
        fallback_P = torch.zeros_like(fallback_P)
    outcome = Outcome.of(accepted_P, fallback_P, ~finite_P)

    old_PSS = bank.maps_RSS[row_P]
    # What a fallback left behind was never accepted: the first accepted update replaces it.
    previous_PSS = torch.where((count_P == 0)[:, None, None], torch.zeros_like(old_PSS), old_PSS)
    t_P11 = (count_P.float() + 1)[:, None, None]
    last_PSS = bank.last_RSS[row_P]
    step = Step(previous_PSS.float(), stored_PSS.float(), last_PSS.float(), t_P11)
    fused_PSS = find_fusion(rules.fusion).function(step).to(dtype)
    fused_PSS = torch.where(inside_PSS, fused_PSS, previous_PSS)
    written_P11 = (accepted_P | fallback_P)[:, None, None]
    seen_PSS = inside_PSS & accepted_P[:, None, None]
    bank.maps_RSS[row_P] = torch.where(written_P11, fused_PSS, old_PSS)
    bank.last_RSS[row_P] = torch.where(seen_PSS, stored_PSS, last_PSS)
    bank.accepted_R[row_P] = count_P + accepted_P.int()
    bank.fallback_R[row_P] = (bank.fallback_R[row_P] & ~accepted_P) | fallback_P
    bank.dirty_R[row_P] |= accepted_P | fallback_P
    return outcome
