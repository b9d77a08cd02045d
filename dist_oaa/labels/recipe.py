"""Pseudo labels from attention and saliency: the recipe of the public OAA code.

The papers leave these steps out; each number is a setting of `RecipeConfig`.

Shapes: HW the pixels of one image, K its target classes, J = K + 1 channels, background first.
"""

from collections.abc import Sequence

import numpy as np

from dist_oaa.config.labels import RecipeConfig

IGNORED = 255
"""Palette value of pixels that a segmentation network is not trained on."""


def pseudo_label(
    class_indices: Sequence[int],
    maps_KHW: np.ndarray,
    saliency_HW: np.ndarray,
    config: RecipeConfig,
    ignore: bool = True,
) -> np.ndarray:
    """Label every pixel of one image with background, a target class, or "ignored".

    The score of the background is 1 - saliency, that of a class its attention stretched to 0..1
    over the image, with scores below the floor set to 0. A pixel takes the channel of the largest
    score; of equal ones the background, then the lowest class index. Then ignored are pixels with
    several confident channels, background pixels that are salient or strongly attended, and the
    whole image where hardly any pixel is left for the objects.

    Args:
        class_indices: the K target classes of the image, 0 to 253, without repetition.
        maps_KHW: (K, H, W) float, their attention at image size, any range.
        saliency_HW: (H, W), float 0 to 1 or uint8 0 to 255.
        config: the recipe's numbers.
        ignore: False ignores nothing: the plain, dense argmax.

    Returns:
        (H, W) uint8 palette values: 0 background, class index + 1, 255 ignored.

    Raises:
        ValueError: sizes that differ, classes that repeat or do not fit a byte, saliency outside
            its range, maps that are not finite.
    """
    saliency_HW = _unit_saliency(np.asarray(saliency_HW))
    maps_KHW = np.asarray(maps_KHW, dtype=np.float32)
    _check(class_indices, maps_KHW, saliency_HW)
    order_K = np.argsort(class_indices)
    attention_KHW = np.stack([_stretch(maps_KHW[k]) for k in order_K]) if len(order_K) else maps_KHW
    # The floor leaves the background alone, which changes nothing: a background score below the
    # floor meets class scores that are either above it (and win) or 0 (and lose or tie).
    scores_JHW = np.concatenate([1 - saliency_HW[None], attention_KHW])
    scores_JHW[1:][attention_KHW < np.float32(config.attention_floor)] = 0
    palette_J = np.array([0, *(class_indices[k] + 1 for k in order_K)], dtype=np.uint8)
    label_HW = palette_J[scores_JHW.argmax(0)]
    if not ignore:
        return label_HW

    conflict_HW = (scores_JHW > np.float32(config.conflict)).sum(0) > 1
    uncertain_HW = saliency_HW >= np.float32(config.uncertain_saliency)
    uncertain_HW |= (attention_KHW > np.float32(config.uncertain_attention)).any(0)
    label_HW[conflict_HW | (uncertain_HW & (label_HW == 0))] = IGNORED
    foreground = np.count_nonzero((label_HW > 0) & (label_HW != IGNORED))
    if foreground / label_HW.size < config.min_foreground:
        label_HW[:] = IGNORED
    return label_HW


def _unit_saliency(saliency_HW: np.ndarray) -> np.ndarray:
    """Saliency as float32 from 0 to 1."""
    if saliency_HW.dtype == np.uint8:
        return saliency_HW / np.float32(255)
    saliency_HW = saliency_HW.astype(np.float32)
    # Also false for nan.
    if not ((saliency_HW >= 0) & (saliency_HW <= 1)).all():
        raise ValueError("saliency leaves the range 0 to 1 (bytes, 0 to 255, must be uint8)")
    return saliency_HW


def _check(class_indices: Sequence[int], maps_KHW: np.ndarray, saliency_HW: np.ndarray) -> None:
    if maps_KHW.shape != (len(class_indices), *saliency_HW.shape) or saliency_HW.ndim != 2:
        raise ValueError(
            f"{len(class_indices)} classes, maps of {maps_KHW.shape} and saliency of "
            f"{saliency_HW.shape} do not belong to one image"
        )
    if len(set(class_indices)) != len(class_indices) or any(
        not 0 <= c < IGNORED - 1 for c in class_indices
    ):
        raise ValueError(f"classes {list(class_indices)} should be unique and within 0 to 253")
    if not np.isfinite(maps_KHW).all():
        raise ValueError("attention maps hold values that are not finite")


def _stretch(map_HW: np.ndarray) -> np.ndarray:
    """Min-max normalisation; a constant map attends to nothing and becomes 0."""
    lowest, highest = map_HW.min(), map_HW.max()
    if highest <= lowest:
        return np.zeros_like(map_HW)
    return (map_HW - lowest) / (highest - lowest)
