"""From a decoded image to the network's input, with the geometry that was applied.

Every random choice is drawn from a generator keyed by (seed, epoch, image id): the same image
gets the same augmentation on any rank, in any worker and after any resume.
"""

import hashlib

import cv2
import numpy as np
import torch
from torchvision.transforms.v2 import functional as tv

from dist_oaa.config.data import AugmentConfig, DataConfig
from dist_oaa.data.geometry import HORIZONTAL_FLIP_23, IDENTITY_23, crop_23, then


def stateless_rng(seed: int, epoch: int, key: str, purpose: str) -> np.random.Generator:
    """A generator that is a function of its arguments alone.

    Args:
        key: what the numbers are for, such as an image id.
        purpose: separates independent uses for the same key, such as "augment" and "drop".
    """
    digest = hashlib.blake2b(f"{seed}\x1f{epoch}\x1f{purpose}\x1f{key}".encode(), digest_size=16)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest.digest(), "little")))


def resized_shape(
    height: int, width: int, config: DataConfig, multiple: int, scale: float = 1.0
) -> tuple[int, int]:
    """Height and width after resizing, both multiples of the trunk's stride.

    Whole feature cells make the valid part of a padded batch exact; keeping the aspect ratio
    only to half a cell is the price, and the geometry, being normalised, absorbs it.
    """
    short = config.size * scale
    if config.resize == "square":
        target = (short, short)
    else:
        longest = short * config.max_aspect
        factor = short / min(height, width)
        target = (min(height * factor, longest), min(width * factor, longest))
    rows, columns = (max(multiple, round(side / multiple) * multiple) for side in target)
    return rows, columns


def resize(image_HW3: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes to (height, width) pixels: a side that shrinks is averaged, one that grows is linear.

    One call cannot do both: where one side grows, OpenCV's INTER_AREA shifts the image by up to
    a pixel and stops averaging along the other.
    """
    between = min(height, image_HW3.shape[0]), min(width, image_HW3.shape[1])
    image_HW3 = cv2.resize(image_HW3, between[::-1], interpolation=cv2.INTER_AREA)
    return cv2.resize(image_HW3, (width, height), interpolation=cv2.INTER_LINEAR)


def prepare(
    image_HW3: np.ndarray,
    config: DataConfig,
    multiple: int,
    rng: np.random.Generator | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Resizes and, given a generator, augments one image.

    Args:
        image_HW3: uint8 RGB.
        multiple: the trunk's stride in pixels.
        rng: source of the random choices; None measures: no augmentation.

    Returns:
        The input image (uint8 RGB, h x w x 3) and its geometry (float32, 2 x 3).
    """
    augment = config.augment
    scale = 1.0 if rng is None else float(rng.uniform(*augment.scale))
    shape = resized_shape(*image_HW3.shape[:2], config, multiple, scale)
    image_HW3 = resize(image_HW3, *shape)
    geometry_23 = IDENTITY_23
    if rng is None:
        return image_HW3, geometry_23.astype(np.float32)
    flip, jitter = draw_choices(augment, rng)
    if augment.crop:
        image_HW3, cut_23 = _random_crop(image_HW3, augment.crop, multiple, rng)
        geometry_23 = then(geometry_23, cut_23)
    if flip:
        image_HW3 = image_HW3[:, ::-1]
        geometry_23 = then(geometry_23, HORIZONTAL_FLIP_23)
    if jitter:
        image_HW3 = colour_jitter(image_HW3, augment.jitter, rng)
    return np.ascontiguousarray(image_HW3), geometry_23.astype(np.float32)


def draw_choices(augment: AugmentConfig, rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether to flip an image, and whether to change its colours."""
    if augment.exclusive:
        chosen_flip = bool(rng.random() < 0.5)
        return chosen_flip and augment.flip > 0, not chosen_flip and augment.jitter_probability > 0
    return bool(rng.random() < augment.flip), bool(rng.random() < augment.jitter_probability)


def _random_crop(
    image_HW3: np.ndarray, side: int, multiple: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    height, width = image_HW3.shape[:2]
    side = max(multiple, side // multiple * multiple)
    rows, columns = min(side, height), min(side, width)
    top = int(rng.integers(0, height - rows + 1))
    left = int(rng.integers(0, width - columns + 1))
    cut_23 = crop_23(left / width, top / height, columns / width, rows / height)
    return image_HW3[top : top + rows, left : left + columns], cut_23


def colour_jitter(
    image_HW3: np.ndarray, strengths: list[float], rng: np.random.Generator
) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue at random, as `data.augment.jitter` says."""
    # The order of the four changes is drawn too, as torchvision's ColorJitter does.
    image = torch.from_numpy(np.ascontiguousarray(image_HW3)).permute(2, 0, 1)
    brightness, contrast, saturation = 1 + rng.uniform(-1, 1, 3) * np.array(strengths[:3])
    hue = rng.uniform(-1, 1) * strengths[3]
    changes = [
        lambda x: tv.adjust_brightness(x, float(brightness)),
        lambda x: tv.adjust_contrast(x, float(contrast)),
        lambda x: tv.adjust_saturation(x, float(saturation)),
        lambda x: tv.adjust_hue(x, float(hue)),
    ]
    for index in rng.permutation(4):
        if strengths[index] > 0:
            image = changes[index](image)
    return image.permute(1, 2, 0).numpy()
