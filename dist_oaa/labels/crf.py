"""The fully connected CRF: scores follow the image's edges (Kraehenbuehl and Koltun 2011).

It holds the interpreter's lock while it works: run one process a core, one thread each.

Shapes: HW the pixels of one image, J channels (background first), L all label channels.
"""

import numpy as np

from dist_oaa.config.extras import need
from dist_oaa.config.labels import CrfConfig

SMALLEST = 1e-5
"""Least probability whose logarithm is taken."""


def dense_crf(image_HW3: np.ndarray, scores_JHW: np.ndarray, config: CrfConfig) -> np.ndarray:
    """Mean-field inference on one image.

    The unary term of a channel is -log of its share of the pixel's scores (a pixel without any
    gets equal shares), softened as `softness` says.

    Args:
        image_HW3: (H, W, 3) uint8 RGB.
        scores_JHW: (J, H, W) float, 0 or more: probabilities, or scores like them.

    Returns:
        (J, H, W) float32 probabilities, which sum to one over the channels.

    Raises:
        ValueError: sizes that differ, no channel, scores below 0 or not finite.
        UserError: when pydensecrf2 is not installed.
    """
    scores_JHW = np.asarray(scores_JHW, dtype=np.float32)
    channels, height, width = _checked(image_HW3, scores_JHW)
    total_HW = scores_JHW.sum(0)
    share_JHW = np.full_like(scores_JHW, 1 / channels)
    np.divide(scores_JHW, total_HW, out=share_JHW, where=total_HW > 0)
    share_JHW = (1 - config.softness) * share_JHW + config.softness / channels
    if channels == 1:  # nothing to decide
        return np.ones_like(scores_JHW)
    unary_JN = -np.log(np.maximum(share_JHW, SMALLEST)).reshape(channels, -1)
    densecrf = need("pydensecrf.densecrf", "the dense CRF")
    crf = densecrf.DenseCRF2D(width, height, channels)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_JN, dtype=np.float32))
    crf.addPairwiseGaussian(sxy=config.gaussian_xy, compat=config.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=config.bilateral_xy,
        srgb=config.bilateral_rgb,
        rgbim=np.ascontiguousarray(image_HW3),
        compat=config.bilateral_compat,
    )
    # The result is a view of memory that belongs to the CRF.
    return np.array(crf.inference(config.iterations), dtype=np.float32).reshape(
        channels, height, width
    )


def crf_on_present(
    image_HW3: np.ndarray, probabilities_LHW: np.ndarray, config: CrfConfig
) -> np.ndarray:
    """Labels after a CRF on the classes of a prediction: those that win anywhere, and background.

    The cost grows with the channels, and a class that wins nowhere hardly ever does afterwards.

    Args:
        image_HW3: (H, W, 3) uint8 RGB.
        probabilities_LHW: (L, H, W) float, background first.

    Returns:
        (H, W) uint8 palette values, 0 background, class index + 1.

    Raises:
        ValueError: as `dense_crf`; more channels than a byte names.
    """
    probabilities_LHW = np.asarray(probabilities_LHW, dtype=np.float32)
    if len(probabilities_LHW) > 255:
        raise ValueError(f"{len(probabilities_LHW)} channels do not fit a palette of 255")
    _checked(image_HW3, probabilities_LHW)
    present_J = np.union1d([0], np.unique(probabilities_LHW.argmax(0)))
    refined_JHW = dense_crf(image_HW3, probabilities_LHW[present_J], config)
    return present_J.astype(np.uint8)[refined_JHW.argmax(0)]


def _checked(image_HW3: np.ndarray, scores_JHW: np.ndarray) -> tuple[int, int, int]:
    """The shape J, H, W of scores that fit the image."""
    if image_HW3.dtype != np.uint8 or image_HW3.ndim != 3 or image_HW3.shape[2] != 3:
        raise ValueError(f"the CRF wants a uint8 image H x W x 3, not {image_HW3.shape}")
    if scores_JHW.ndim != 3 or scores_JHW.shape[1:] != image_HW3.shape[:2] or not scores_JHW.size:
        raise ValueError(
            f"scores of {scores_JHW.shape} do not fit an image of {image_HW3.shape[:2]} pixels"
        )
    # Also false for nan.
    if not (scores_JHW >= 0).all() or not np.isfinite(scores_JHW).all():
        raise ValueError("the CRF wants finite scores of 0 or more")
    return scores_JHW.shape
