"""Pseudo labels from attention and saliency: the recipe of the public OAA code.

The papers leave these steps out; each number is a setting of `RecipeConfig`.

Shapes: HW the pixels of one image, K its target classes, J = K + 1 channels, background first.
"""

from collections.abc import Sequence

import numpy as np

from dist_oaa.config.labels import RecipeConfig
from dist_oaa.labels.scores import channel_scores, stretched, unit_saliency

IGNORED = 255
"""Palette value of pixels that a segmentation network is not trained on."""


def pseudo_label(
    class_indices: Sequence[int],
    maps_KHW: np.ndarray,
    saliency_HW: np.ndarray | None,
    config: RecipeConfig,
    ignore: bool = True,
    *,
    threshold: float = 0.0,
    margin: float = 0.0,
    refined_JHW: np.ndarray | None = None,
) -> np.ndarray:
    """Label every pixel of one image with background, a target class, or "ignored".

    A pixel takes the channel of the largest score (see `channel_scores`); of equal ones the
    background, then the lowest class index. Then ignored are pixels with several confident
    channels, background pixels that are salient or strongly attended, and the whole image where
    hardly any pixel is left for the objects. Without saliency, a background pixel is doubtful
    where its attention comes near the threshold.

    Args:
        class_indices: the K target classes of the image, 0 to 253, without repetition.
        maps_KHW: (K, H, W) float, their attention at image size, any range.
        saliency_HW: (H, W), float 0 to 1 or uint8 0 to 255; None takes the threshold instead.
        config: the recipe's numbers.
        ignore: False ignores nothing: the plain, dense argmax.
        threshold: the background's score without saliency, 0 to 1.
        margin: how far below the threshold attention makes a background pixel doubtful, 0 to 1.
        refined_JHW: (J, H, W) float scores in the order of `class_indices`, background first,
            whose argmax is taken; what is ignored follows from the attention and the saliency.

    Returns:
        (H, W) uint8 palette values: 0 background, class index + 1, 255 ignored.

    Raises:
        ValueError: sizes that differ, classes that repeat or do not fit a byte, saliency outside
            its range, maps or refined scores that are not finite.
    """
    _check_classes(class_indices, maps_KHW)
    scores_JHW = channel_scores(maps_KHW, saliency_HW, threshold, config)
    if refined_JHW is not None:
        _check_refined(refined_JHW, scores_JHW)
    label_HW = _argmax(class_indices, scores_JHW if refined_JHW is None else refined_JHW)
    if not ignore:
        return label_HW

    attention_KHW = stretched(maps_KHW)
    # A threshold is no confidence: without saliency the background conflicts with nothing.
    rivals_JHW = scores_JHW if saliency_HW is not None else scores_JHW[1:]
    conflict_HW = (rivals_JHW > np.float32(config.conflict)).sum(0) > 1
    if saliency_HW is not None:
        uncertain_HW = unit_saliency(saliency_HW) >= np.float32(config.uncertain_saliency)
    else:
        uncertain_HW = (attention_KHW > np.float32(threshold - margin)).any(0)
    uncertain_HW |= (attention_KHW > np.float32(config.uncertain_attention)).any(0)
    label_HW[conflict_HW | (uncertain_HW & (label_HW == 0))] = IGNORED
    foreground = np.count_nonzero((label_HW > 0) & (label_HW != IGNORED))
    if foreground / label_HW.size < config.min_foreground:
        label_HW[:] = IGNORED
    return label_HW


def _argmax(class_indices: Sequence[int], scores_JHW: np.ndarray) -> np.ndarray:
    """Palette value of the largest score; of equal ones the lowest value."""
    order_J = np.concatenate([[0], np.argsort(class_indices) + 1]).astype(np.intp)
    palette_J = np.array([0, *(c + 1 for c in sorted(class_indices))], dtype=np.uint8)
    return palette_J[scores_JHW[order_J].argmax(0)]


def _check_classes(class_indices: Sequence[int], maps_KHW: np.ndarray) -> None:
    if len(class_indices) != len(maps_KHW):
        raise ValueError(
            f"{len(class_indices)} classes and maps of {np.shape(maps_KHW)} do not belong to one "
            "image"
        )
    if len(set(class_indices)) != len(class_indices) or any(
        not 0 <= c < IGNORED - 1 for c in class_indices
    ):
        raise ValueError(f"classes {list(class_indices)} should be unique and within 0 to 253")


def _check_refined(refined_JHW: np.ndarray, scores_JHW: np.ndarray) -> None:
    if refined_JHW.shape != scores_JHW.shape:
        raise ValueError(
            f"refined scores of {refined_JHW.shape} do not fit scores of {scores_JHW.shape}"
        )
    if not np.isfinite(refined_JHW).all():
        raise ValueError("refined scores hold values that are not finite")
