"""Images that are held out of training, to choose a threshold on: a function of their names.

Whether an image is held out depends on its own name and on the seed alone, not on which other
images the list has: a longer, shorter or re-ordered list holds out the same of them, so the stage
that measures finds the very images that the training never saw.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

from dist_oaa.config.data import HoldoutConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.sample import ImageSet

SCALE = 1 << 64


def split_holdout(ids: Sequence[str], fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Splits image names in two, keeping their order.

    Args:
        fraction: expected share of the second part, 0 to below 1; 0 holds nothing out.

    Returns:
        the names that are kept, and those that are held out.
    """
    held = [_draw(name, seed) < fraction for name in ids]
    kept_names = [name for name, out in zip(ids, held, strict=True) if not out]
    return kept_names, [name for name, out in zip(ids, held, strict=True) if out]


def kept(image_set: ImageSet, holdout: HoldoutConfig) -> ImageSet:
    """The images that a training sees; all of them where nothing is held out.

    Raises:
        UserError: when none is left.
    """
    return _part(image_set, holdout, 0)


def held_out(image_set: ImageSet, holdout: HoldoutConfig) -> ImageSet:
    """The images that a training with these settings does not see.

    Raises:
        UserError: when there is none.
    """
    return _part(image_set, holdout, 1)


def _part(image_set: ImageSet, holdout: HoldoutConfig, which: int) -> ImageSet:
    if which == 0 and not holdout.fraction:
        return image_set
    names = [sample.id for sample in image_set.samples]
    chosen = set(split_holdout(names, holdout.fraction, holdout.seed)[which])
    if not chosen:
        verb = "leaves none" if which == 0 else "holds none out"
        raise UserError(
            f"data.holdout.fraction {holdout.fraction} {verb} of the {len(names)} images of "
            f"{image_set.root}, expected a share that gives at least one image to each part"
        )
    samples = tuple(sample for sample in image_set.samples if sample.id in chosen)
    return dataclasses.replace(image_set, samples=samples)


def _draw(name: str, seed: int) -> float:
    """A number from [0, 1) that is the image's own."""
    digest = hashlib.blake2b(f"holdout\x1f{seed}\x1f{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / SCALE
