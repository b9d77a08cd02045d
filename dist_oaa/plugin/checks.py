"""What a user may have got wrong, each in one sentence, before anything is changed.

Legend: B images of a batch, C classes, H x W feature cells.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from dist_oaa.attention.batch import Rules
from dist_oaa.attention.gates import GATES
from dist_oaa.config.accumulate import AccumulateConfig
from dist_oaa.config.errors import UserError
from dist_oaa.runtime.distributed import World
from dist_oaa.store.manifest import Manifest


def make_rules(gate: str, tau: float, rho: float, fusion: str) -> Rules:
    """How attention is accepted and fused.

    Raises:
        UserError: when the gate is unknown, or a number is out of its range.
    """
    if gate not in GATES:
        raise UserError(f"gate is {gate!r}, expected {', '.join(GATES)}")
    try:
        AccumulateConfig(tau=tau, rho=rho)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Rules(gate, tau, fusion, rho=rho)


def check_world(world: World, folder: Path, manifest: Manifest) -> None:
    """Refuses more ranks than shards.

    Raises:
        UserError: likewise, on all ranks alike.
    """
    if world.size > manifest.shards:
        raise UserError(
            f"{folder} has {manifest.shards} shards for {world.size} ranks, expected at least "
            "one for each; make the store with shards= a multiple of the number of ranks"
        )


def check_batch(
    cam: Tensor,
    logits: Tensor,
    image_ids: Sequence[str],
    geometry: Tensor | np.ndarray | None,
    classes: int,
) -> None:
    """Refuses a batch whose parts do not fit each other or the store.

    Raises:
        UserError: naming the part and the shape that was expected.
    """
    images = len(image_ids)
    if cam.ndim != 4 or tuple(cam.shape[:2]) != (images, classes) or 0 in cam.shape[2:]:
        raise UserError(
            f"cam has shape {tuple(cam.shape)}, expected ({images}, {classes}, H, W) for "
            f"{images} image_ids and the {classes} classes of the store"
        )
    if tuple(logits.shape) != (images, classes):
        raise UserError(f"logits have shape {tuple(logits.shape)}, expected ({images}, {classes})")
    if geometry is not None and tuple(geometry.shape) != (images, 2, 3):
        raise UserError(f"geometry has shape {tuple(geometry.shape)}, expected ({images}, 2, 3)")
    if len(set(image_ids)) < images:
        twice = next(name for name in image_ids if image_ids.count(name) > 1)
        raise UserError(f"the image {twice!r} is twice in one batch, expected each once")
