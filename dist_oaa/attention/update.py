"""The one entry to accumulation: gate, normalise, un-warp, fuse, quantise and scatter a batch."""

from dataclasses import replace

import torch

from dist_oaa.attention import fused, native, reference, vectorised
from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Observation, Outcome, Rules
from dist_oaa.attention.gates import CELL_GATES


def _triton(bank: MapBank, seen: Observation, rules: Rules) -> Outcome:
    from dist_oaa.attention import triton_kernel  # Triton takes a second to import

    return triton_kernel.update(bank, seen, rules)


PATHS = {
    "fused": fused.update,
    "native": native.update,
    "triton": _triton,
    "vectorised": vectorised.update,
    "reference": reference.update,
}


def update(bank: MapBank, seen: Observation, rules: Rules, path: str = "fused") -> Outcome:
    """Accumulates the attention of a batch into the bank, in place.

    Args:
        path: which implementation; all give the same maps. `fused` picks the fastest of the
            device; tests and benchmarks name others.

    Returns:
        What happened to each pair, on the device of the bank.
    """
    assert seen.cam_BCHW.ndim == 4, f"cam must be B x C x H x W, not {tuple(seen.cam_BCHW.shape)}"
    assert seen.logits_BC.shape == seen.labels_BC.shape == seen.cam_BCHW.shape[:2]
    assert seen.geometry_B23.shape[1:] == (2, 3)
    if len(seen.pairs) == 0:
        return Outcome(torch.zeros(3, 0, dtype=torch.bool, device=seen.cam_BCHW.device))
    if rules.gate in CELL_GATES:
        cam_BCHW = CELL_GATES[rules.gate](seen.cam_BCHW, rules.rho)
        seen = replace(seen, cam_BCHW=cam_BCHW)
    return PATHS[path](bank, seen, rules)
