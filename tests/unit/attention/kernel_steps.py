"""Steps without hypothesis, for the tests of the compiled kernel and of the Triton source."""

import dataclasses

import numpy as np
import torch

from cases import observation
from dist_oaa.attention.batch import Observation


def random_steps(shape, names=("identity", "rotation"), classes=2, seed=0) -> list[Observation]:
    """One step for each geometry: two images, three targets, the second image padded."""
    rng = np.random.default_rng(seed)
    labels_BC = torch.zeros(2, classes, dtype=torch.uint8)
    labels_BC[0, 0] = labels_BC[1, -1] = labels_BC[0, classes // 2] = 1
    cells = [shape, (-(-shape[0] // 2), -(-shape[1] * 2 // 3))]
    return [
        observation(
            rng, labels_BC, shape, ["normal"], [name, "crop and flip"], cells,
            rng.normal(size=(2, classes)).astype(np.float32),
        )
        for name in names
    ]  # fmt: skip


def cast(seen: Observation, kind: torch.dtype, channels_last: bool = False) -> Observation:
    """The same step with features and scores of another type and order."""
    order = torch.channels_last if channels_last else torch.contiguous_format
    cam_BCHW = seen.cam_BCHW.to(kind).contiguous(memory_format=order)
    return dataclasses.replace(seen, cam_BCHW=cam_BCHW, logits_BC=seen.logits_BC.to(kind))
