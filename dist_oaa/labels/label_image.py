"""The pseudo label of one image: scores, refinements, recipe.

Shapes: HW the pixels of one image, K its target classes, J = K + 1 channels, background first, D
feature channels, hw the cells of the features.
"""

from collections.abc import Sequence

import numpy as np

from dist_oaa.config.labels import LabelsConfig
from dist_oaa.labels.crf import dense_crf
from dist_oaa.labels.recipe import pseudo_label
from dist_oaa.labels.scores import channel_scores


def label_image(
    image_HW3: np.ndarray,
    class_indices: Sequence[int],
    maps_KHW: np.ndarray,
    saliency_HW: np.ndarray | None,
    config: LabelsConfig,
    threshold: float,
    features_Dhw: np.ndarray | None = None,
) -> np.ndarray:
    """Label every pixel of one image; see `label_both`, of which this is the first part."""
    return label_both(
        image_HW3, class_indices, maps_KHW, saliency_HW, config, threshold, features_Dhw
    )[0]


def label_both(
    image_HW3: np.ndarray,
    class_indices: Sequence[int],
    maps_KHW: np.ndarray,
    saliency_HW: np.ndarray | None,
    config: LabelsConfig,
    threshold: float,
    features_Dhw: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The label to train on and, with the work done once, the same label with nothing ignored.

    Args:
        image_HW3: (H, W, 3) uint8 RGB.
        class_indices: the K target classes of the image, 0 to 253, without repetition.
        maps_KHW: (K, H, W) float, their attention at image size, any range.
        saliency_HW: (H, W), float 0 to 1 or uint8 0 to 255; None takes the threshold instead.
        config: the refinements and the recipe.
        threshold: the background's score without saliency, 0 to 1; not read with saliency.
        features_Dhw: (D, h, w) float, for a random walk on features or learned affinities.

    Returns:
        Two (H, W) uint8 label images: 0 background, class index + 1, 255 ignored.

    Raises:
        ValueError: sizes that differ, values out of their range, features that are missing.
    """
    scores_JHW = channel_scores(maps_KHW, saliency_HW, threshold, config.recipe)
    refined_JHW = refine(image_HW3, scores_JHW, config, features_Dhw)
    both = [
        pseudo_label(
            class_indices,
            maps_KHW,
            saliency_HW,
            config.recipe,
            ignore,
            threshold=threshold,
            margin=config.background.margin,
            refined_JHW=refined_JHW,
        )
        for ignore in (True, False)
    ]
    return both[0], both[1]


def refine(
    image_HW3: np.ndarray,
    scores_JHW: np.ndarray,
    config: LabelsConfig,
    features_Dhw: np.ndarray | None = None,
) -> np.ndarray:
    """The scores after the refinements that `config.refine` names, in that order.

    (H, W, 3) uint8 and (J, H, W) float32 to (J, H, W) float32. Raises ValueError as `label_both`.
    """
    for name in config.refine:
        scores_JHW = _REFINEMENTS[name](image_HW3, scores_JHW, config, features_Dhw)
    return scores_JHW


def _crf(image_HW3, scores_JHW, config, features_Dhw):
    return dense_crf(image_HW3, scores_JHW, config.crf)


def _pamr(image_HW3, scores_JHW, config, features_Dhw):
    import torch

    from dist_oaa.labels.pamr import pamr

    image_3HW = torch.from_numpy(np.ascontiguousarray(image_HW3)).permute(2, 0, 1)
    return pamr(image_3HW, torch.from_numpy(scores_JHW), config.pamr).numpy()


def _random_walk(image_HW3, scores_JHW, config, features_Dhw):
    from dist_oaa.labels.random_walk import colour_edges, feature_edges, random_walk

    walk = config.random_walk
    if walk.affinity == "colour":
        edges = colour_edges(image_HW3, walk)
    elif features_Dhw is None:
        raise ValueError(
            f"labels.random_walk.affinity {walk.affinity} needs the features of the image"
        )
    else:
        edges = feature_edges(features_Dhw, walk)
    return random_walk(scores_JHW, edges, walk)


_REFINEMENTS = {"crf": _crf, "pamr": _pamr, "random_walk": _random_walk}
