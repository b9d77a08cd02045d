"""The update, one pair at a time, written to be read: what every faster path is held against.

For each pair (image b, class c) with bank row r:
  A = ReLU(F_c) / max(F_c), all zero when max(F_c) <= 0                                 (Eq. 2)
  sampled at the cells of the map through the image's geometry (bilinear, half-pixel centres);
  cells that fall outside the input are left alone
  t += 1;  M = fuse(M, A, t)  if the gate accepts the pair                         (Eq. 5 or 10)
Arithmetic is float32 in the order written here. Other paths follow it operation by operation, so
that uint8 maps agree to the last bit.
Legend: S map cells along a side; hw valid feature cells.
"""

import torch

from dist_oaa.attention.bank import MapBank, full_scale
from dist_oaa.attention.batch import Observation, Outcome, Rules
from dist_oaa.attention.fusions import Step, find_fusion
from dist_oaa.attention.gates import GATES


def scaled_attention(feature_hw: torch.Tensor, scale_to: float) -> torch.Tensor:
    """Eq. 2 times `scale_to`: ReLU(F) * (scale_to / max F), zero when max F <= 0.

    A maximum so small that the quotient overflows counts as zero.
    """
    peak = feature_hw.amax()
    factor = torch.div(torch.full_like(peak, scale_to), peak)
    if not (peak > 0 and torch.isfinite(factor)):
        return torch.zeros_like(feature_hw)
    return torch.clamp(torch.relu(feature_hw) * factor, max=scale_to)


def cell_centres(size: int, device: torch.device) -> torch.Tensor:
    """Normalised coordinates of the centres of `size` cells, float32."""
    return (torch.arange(size, dtype=torch.float32, device=device) + 0.5) / size


def sample(
    map_hw: torch.Tensor, geometry_23: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples a map of the input at the S x S cells of the whole image.

    Returns:
        values (S, S), and whether each cell lies inside the input (S, S).
    """
    height, width = map_hw.shape
    v_S1 = cell_centres(size, map_hw.device)[:, None]
    u_1S = cell_centres(size, map_hw.device)[None, :]
    x_SS = geometry_23[0, 0] * u_1S + geometry_23[0, 1] * v_S1 + geometry_23[0, 2]
    y_SS = geometry_23[1, 0] * u_1S + geometry_23[1, 1] * v_S1 + geometry_23[1, 2]
    inside_SS = (x_SS >= 0) & (x_SS <= 1) & (y_SS >= 0) & (y_SS <= 1)
    column_SS = (x_SS * width - 0.5).clamp(0, width - 1)
    row_SS = (y_SS * height - 0.5).clamp(0, height - 1)
    left_SS, top_SS = column_SS.floor(), row_SS.floor()
    wx_SS, wy_SS = column_SS - left_SS, row_SS - top_SS
    left, top = left_SS.long(), top_SS.long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    upper_SS = map_hw[top, left] * (1 - wx_SS) + map_hw[top, right] * wx_SS
    lower_SS = map_hw[bottom, left] * (1 - wx_SS) + map_hw[bottom, right] * wx_SS
    return upper_SS * (1 - wy_SS) + lower_SS * wy_SS, inside_SS


def quantise(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rounds scaled attention to the stored format (uint8: to the nearest, ties to even)."""
    return values.round().to(dtype) if dtype == torch.uint8 else values.to(dtype)


@torch.no_grad()
def update(bank: MapBank, seen: Observation, rules: Rules) -> Outcome:
    """Applies one batch to the bank, in place, pair by pair."""
    accept_BC = GATES[rules.gate](seen.logits_BC.float(), seen.labels_BC, rules.tau)
    accepted, fallback, broken = [], [], []
    for image, class_, row in zip(
        seen.pairs.image_P.tolist(),
        seen.pairs.class_P.tolist(),
        seen.pairs.row_P.tolist(),
        strict=True,
    ):
        height, width = seen.cells_B2[image].tolist()
        feature_hw = seen.cam_BCHW[image, class_, :height, :width].float()
        finite = bool(torch.isfinite(feature_hw).all())
        accept = bool(accept_BC[image, class_]) and finite
        lends = rules.fallback and finite and not accept and int(bank.accepted_R[row]) == 0
        if accept or lends:
            _write(bank, row, feature_hw, seen.geometry_B23[image], rules, accept)
        accepted.append(accept)
        fallback.append(lends)
        broken.append(not finite)
    device = seen.cam_BCHW.device
    return Outcome(torch.tensor([accepted, fallback, broken], dtype=torch.bool, device=device))


def _write(
    bank: MapBank,
    row: int,
    feature_hw: torch.Tensor,
    geometry_23: torch.Tensor,
    rules: Rules,
    accept: bool,
) -> None:
    dtype = bank.dtype
    attention_hw = scaled_attention(feature_hw, full_scale(dtype))
    values_SS, inside_SS = sample(attention_hw, geometry_23, bank.map_size)
    stored_SS = quantise(values_SS, dtype)
    first = int(bank.accepted_R[row]) == 0
    # What a fallback left behind was never accepted: the first accepted update replaces it.
    previous_SS = torch.zeros_like(stored_SS) if first else bank.maps_RSS[row]
    t = bank.accepted_R[row].float() + 1
    step = Step(previous_SS.float(), stored_SS.float(), bank.last_RSS[row].float(), t)
    fused_SS = find_fusion(rules.fusion).function(step).to(dtype)
    bank.maps_RSS[row] = torch.where(inside_SS, fused_SS, previous_SS)
    if accept:
        bank.last_RSS[row] = torch.where(inside_SS, stored_SS, bank.last_RSS[row])
        bank.accepted_R[row] += 1
    bank.fallback_R[row] = not accept
    bank.dirty_R[row] = True
