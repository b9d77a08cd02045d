"""The update and a small network on the devices; answered in a process of its own.

Legend: B images, C classes, HW feature cells, P pairs, R rows of the bank.
"""

import os
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dist_oaa.attention import native
from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Observation, Pairs, Rules
from dist_oaa.attention.update import update
from dist_oaa.config.errors import in_one_line
from dist_oaa.stages.examining.torch_facts import import_of

IMAGES, CLASSES, CELLS = 4, 5, (14, 19)
MAP_SIZE = 41
RULES = (Rules(), Rules("prob", 0.5, "average"), Rules("topk", fallback=True))
FLIP_23 = ((-1.0, 0.0, 1.0), (0.0, 1.0, 0.0))
CROP_23 = ((1.6, 0.0, -0.2), (0.0, 1.3, -0.1))
SMALL_NETWORK_TOLERANCE = 2e-2
"""Of gradients against float64, relative: GPUs multiply in TF32, with ten bits."""


def accumulation() -> dict[str, str]:
    """Holds every path that can be taken here against the reference, bit for bit.

    Returns:
        by the path and its device what differs, an empty string where nothing does.
    """
    paths = {("vectorised", "cpu"): "vectorised"}
    if native.problem() is None:
        paths["native", "cpu"] = "C++"
    if torch.cuda.is_available():
        # The compiled kernel needs what the interpreter was asked to do instead.
        for index in range(torch.cuda.device_count()):
            paths["triton", f"cuda:{index}"] = f"Triton on GPU {index}"
    elif _triton_interpreted():
        paths["triton", "cpu"] = "Triton, interpreted"
    return {name: difference(*path) for path, name in paths.items()}


def _triton_interpreted() -> bool:
    """Has Triton run kernels on the CPU; it reads this when it is imported."""
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        import_of("triton")
    except (ImportError, OSError):
        return False
    return True


def difference(path: str, device: str) -> str:
    """What a path computes otherwise than the reference, or why it fails; empty if nothing."""
    try:
        for rules in RULES:
            count = _differing_cells(path, device, rules)
            if count:
                return f"{count} values differ from the reference"
    except Exception as error:
        return in_one_line(f"{type(error).__name__}: {error}", 300)
    return ""


def _differing_cells(path: str, device: str, rules: Rules) -> int:
    dtype = torch.float32 if rules.fusion == "average" else torch.uint8
    seen = observations()
    plain = MapBank.empty(len(seen[0].pairs), MAP_SIZE, dtype)
    tried = MapBank.empty(len(seen[0].pairs), MAP_SIZE, dtype, device)
    count = 0
    for step in seen:
        expected = update(plain, step, rules, "reference")
        flags_3P = update(tried, on_device(step, device), rules, path).flags_3P
        count += int((flags_3P.cpu() != expected.flags_3P).sum())
    for name, tensor in plain.tensors().items():
        count += int((tried.tensors()[name].cpu() != tensor).sum())
    return count


def observations() -> list[Observation]:
    """Two steps of the same images: a flip, a crop, padding, gates that open and that stay shut."""
    generator = torch.Generator().manual_seed(0)
    labels_BC = torch.zeros(IMAGES, CLASSES, dtype=torch.uint8)
    labels_BC[range(IMAGES), range(IMAGES)] = 1
    labels_BC[:2, -1] = 1
    counts_B = labels_BC.long().sum(dim=1)
    pairs = Pairs.from_labels(labels_BC, counts_B.cumsum(0) - counts_B)
    whole_23 = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    return [
        Observation(
            torch.randn(IMAGES, CLASSES, *CELLS, generator=generator),
            torch.randn(IMAGES, CLASSES, generator=generator) + 2 * labels_BC,
            labels_BC,
            torch.tensor([whole_23, FLIP_23, CROP_23, turn_23]),
            torch.tensor([CELLS, (9, 12), CELLS, (14, 1)]),
            pairs,
        )
        for turn_23 in (whole_23, FLIP_23)
    ]


def on_device(seen: Observation, device: str) -> Observation:
    """The same step elsewhere."""
    tensors = (seen.cam_BCHW, seen.logits_BC, seen.labels_BC, seen.geometry_B23, seen.cells_B2)
    place = torch.device(device)
    return Observation(*[tensor.to(place) for tensor in tensors], seen.pairs.to(place))


def network() -> dict[str, dict[str, Any]]:
    """Trains a small network for a step on every device.

    Returns:
        by device `error`: of the gradients against float64 on the CPU, relative; or `failed`.
    """
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    expected = gradients("cpu", torch.float64)
    found: dict[str, dict[str, Any]] = {}
    for device in devices:
        try:
            error = max(
                float((got - true).norm() / true.norm().clamp(min=1e-12))
                for got, true in zip(gradients(device, torch.float32), expected, strict=True)
            )
            found[device] = {"error": error, "fits": error <= SMALL_NETWORK_TOLERANCE}
        except RuntimeError as error:  # torch has no other kind for what a device refuses
            found[device] = {"failed": in_one_line(error, 300)}
    return found


def gradients(device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Of a classifier with convolutions, as float64 on the CPU, after one forward and backward."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.Softplus(), nn.Conv2d(8, CLASSES, 3, padding=1))
        model = nn.Sequential(*layers).to(device, dtype)
        images_B3HW = torch.rand(4, 3, 64, 64, dtype=torch.float64).to(device, dtype)
        labels_BC = torch.randint(0, 2, (4, CLASSES)).to(device, dtype)
    logits_BC = model(images_B3HW).mean(dim=(2, 3))
    F.binary_cross_entropy_with_logits(logits_BC, labels_BC).backward()
    return [parameter.grad.double().cpu() for parameter in model.parameters()]
