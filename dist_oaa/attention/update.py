"""The one entry to accumulation: gate, normalise, un-warp, fuse, quantise and scatter a batch."""

import torch

from dist_oaa.attention import reference, vectorised
from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Observation, Outcome, Rules

PATHS = {"reference": reference.update, "vectorised": vectorised.update}


@torch.no_grad()
def update(bank: MapBank, seen: Observation, rules: Rules, path: str = "vectorised") -> Outcome:
    """Accumulates the attention of a batch into the bank, in place.

    Args:
        path: which implementation; all give the same maps (tests choose, users need not).

    Returns:
        What happened to each pair, on the device of the bank.
    """
    assert seen.cam_BCHW.ndim == 4, f"cam must be B x C x H x W, not {tuple(seen.cam_BCHW.shape)}"
    assert seen.logits_BC.shape == seen.labels_BC.shape == seen.cam_BCHW.shape[:2]
    assert seen.geometry_B23.shape[1:] == (2, 3)
    if len(seen.pairs) == 0:
        nothing = torch.zeros(0, dtype=torch.bool, device=seen.cam_BCHW.device)
        return Outcome(nothing, nothing.clone(), nothing.clone())
    return PATHS[path](bank, seen, rules)
