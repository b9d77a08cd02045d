"""Scores of the background and of an image's classes at every pixel, which labels come from.

Shapes: HW the pixels of one image, K its target classes, J = K + 1 channels, background first.
"""

import numpy as np

from dist_oaa.config.labels import RecipeConfig


def channel_scores(
    maps_KHW: np.ndarray,
    saliency_HW: np.ndarray | None,
    threshold: float,
    recipe: RecipeConfig,
) -> np.ndarray:
    """The score of each channel: 1 - saliency or the threshold, and the stretched attention.

    With saliency, class scores below the recipe's floor are 0; without, the background's score is
    the threshold everywhere, and no floor is needed.

    Args:
        maps_KHW: (K, H, W) float, attention at image size, any range; each map is stretched to
            0..1 over the image, a constant one becomes 0.
        saliency_HW: (H, W), float 0 to 1 or uint8 0 to 255, or None.
        threshold: the background's score without saliency, 0 to 1; not read with saliency.
        recipe: `attention_floor` counts here.

    Returns:
        (J, H, W) float32 in [0, 1], the background first, then the classes as given.

    Raises:
        ValueError: sizes that differ, saliency or threshold outside their range, maps that are
            not finite.
    """
    attention_KHW = stretched(maps_KHW)
    if saliency_HW is None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"the background's threshold is {threshold}, expected 0 to 1")
        background_HW = np.full(attention_KHW.shape[1:], threshold, dtype=np.float32)
        return np.concatenate([background_HW[None], attention_KHW])
    saliency_HW = unit_saliency(saliency_HW)
    if saliency_HW.shape != attention_KHW.shape[1:]:
        raise ValueError(
            f"maps of {attention_KHW.shape} and saliency of {saliency_HW.shape} do not belong to "
            "one image"
        )
    # The floor leaves the background alone, which changes nothing: a background score below the
    # floor meets class scores that are either above it (and win) or 0 (and lose or tie).
    attention_KHW[attention_KHW < np.float32(recipe.attention_floor)] = 0
    return np.concatenate([1 - saliency_HW[None], attention_KHW])


def stretched(maps_KHW: np.ndarray) -> np.ndarray:
    """Each map min-max normalised; a constant one attends to nothing and becomes 0.

    (K, H, W) float to (K, H, W) float32, a new array. Raises ValueError for another number of
    axes, no pixels, or values that are not finite.
    """
    maps_KHW = np.array(maps_KHW, dtype=np.float32)
    if maps_KHW.ndim != 3 or 0 in maps_KHW.shape[1:]:
        raise ValueError(f"attention maps have the shape {maps_KHW.shape}, expected K x H x W")
    if not np.isfinite(maps_KHW).all():
        raise ValueError("attention maps hold values that are not finite")
    for map_HW in maps_KHW:
        lowest, highest = map_HW.min(), map_HW.max()
        map_HW -= lowest
        if highest > lowest:
            map_HW /= highest - lowest
    return maps_KHW


def unit_saliency(saliency_HW: np.ndarray) -> np.ndarray:
    """Saliency as float32 from 0 to 1; ValueError outside that (bytes must be uint8)."""
    saliency_HW = np.asarray(saliency_HW)
    if saliency_HW.ndim != 2:
        raise ValueError(f"saliency has the shape {saliency_HW.shape}, expected one image's H x W")
    if saliency_HW.dtype == np.uint8:
        return saliency_HW / np.float32(255)
    saliency_HW = saliency_HW.astype(np.float32)
    # Also false for nan.
    if not ((saliency_HW >= 0) & (saliency_HW <= 1)).all():
        raise ValueError("saliency leaves the range 0 to 1 (bytes, 0 to 255, must be uint8)")
    return saliency_HW
