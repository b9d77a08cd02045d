"""The update as one PyTorch operator, so that it survives torch.compile and picks its device.

`oaa::accumulate` takes tensors and plain values instead of the objects of batch.py. On GPUs it is
the Triton kernel of triton_kernel.py; on the CPU the C++ loop of native.py, or the plain PyTorch
of vectorised.py where that was not built. A gate or fusion that the kernels do not know, a user's
own, is computed by vectorised.py on any device.

It is a custom_op and no triton_op: the latter asks for a driver while it traces and so fails on a
machine without a GPU.
Legend: R rows of the bank, Q padded cells of a map, B images, C classes, HW padded feature cells,
P pairs.
"""

from collections.abc import Callable

import torch

from dist_oaa.attention import native, vectorised
from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Observation, Outcome, Pairs, Rules
from dist_oaa.attention.fusions import FUSION_NUMBERS
from dist_oaa.attention.gates import GATE_NUMBERS

Update = Callable[[MapBank, Observation, Rules], Outcome]


def _known(rules: Rules) -> bool:
    return rules.gate in GATE_NUMBERS and rules.fusion in FUSION_NUMBERS


def _on_cpu(bank: MapBank, seen: Observation, rules: Rules) -> Outcome:
    built = native.problem() is None
    return (native if built and _known(rules) else vectorised).update(bank, seen, rules)


def _on_gpu(bank: MapBank, seen: Observation, rules: Rules) -> Outcome:
    from dist_oaa.attention import triton_kernel  # Triton takes a second to import

    return (triton_kernel if _known(rules) else vectorised).update(bank, seen, rules)


def _implementation(update: Update) -> Callable[..., torch.Tensor]:
    """An operator kernel that hands its tensors over as objects."""

    def accumulate(
        grid_R2Q: torch.Tensor,
        accepted_R: torch.Tensor,
        fallback_R: torch.Tensor,
        dirty_R: torch.Tensor,
        cam_BCHW: torch.Tensor,
        logits_BC: torch.Tensor,
        labels_BC: torch.Tensor,
        geometry_B23: torch.Tensor,
        cells_B2: torch.Tensor,
        image_P: torch.Tensor,
        class_P: torch.Tensor,
        row_P: torch.Tensor,
        map_size: int,
        gate: str,
        tau: float,
        fusion: str,
        fallback: bool,
    ) -> torch.Tensor:
        bank = MapBank(grid_R2Q, map_size, accepted_R, fallback_R, dirty_R)
        pairs = Pairs(image_P, class_P, row_P)
        seen = Observation(cam_BCHW, logits_BC, labels_BC, geometry_B23, cells_B2, pairs)
        return update(bank, seen, Rules(gate, tau, fusion, fallback)).flags_3P

    return accumulate


_operator = torch.library.custom_op(
    "oaa::accumulate",
    _implementation(_on_gpu),
    mutates_args=("grid_R2Q", "accepted_R", "fallback_R", "dirty_R"),
    device_types="cuda",
)
_operator.register_kernel("cpu")(_implementation(_on_cpu))


@_operator.register_fake
def _shape(grid_R2Q, accepted_R, fallback_R, dirty_R, cam_BCHW, *rest) -> torch.Tensor:
    row_P = rest[6]
    return torch.empty(3, len(row_P), dtype=torch.bool, device=cam_BCHW.device)


def update(bank: MapBank, seen: Observation, rules: Rules) -> Outcome:
    """Applies one batch to the bank, in place, by the fastest path of its device."""
    if not torch.compiler.is_compiling():
        # The same code without the dispatcher, whose bookkeeping costs as much as ten pairs.
        return (_on_cpu if bank.grid_R2Q.device.type == "cpu" else _on_gpu)(bank, seen, rules)
    with torch.no_grad():
        flags_3P = torch.ops.oaa.accumulate(
            bank.grid_R2Q,
            bank.accepted_R,
            bank.fallback_R,
            bank.dirty_R,
            seen.cam_BCHW,
            seen.logits_BC,
            seen.labels_BC,
            seen.geometry_B23,
            seen.cells_B2,
            seen.pairs.image_P,
            seen.pairs.class_P,
            seen.pairs.row_P,
            bank.map_size,
            rules.gate,
            rules.tau,
            rules.fusion,
            rules.fallback,
        )
    return Outcome(flags_3P)
