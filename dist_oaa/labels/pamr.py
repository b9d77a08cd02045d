"""Pixel-adaptive mask refinement (PAMR) of Araslanov and Roth, CVPR 2020, Eq. 4 to 6.

Each pixel takes, again and again, the weighted mean of its neighbours' scores; the weights say how
alike the colours are, measured in the spread of the colours around.

Shapes: HW the pixels of one image, J channels, N neighbours (eight at each distance).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from dist_oaa.config.labels import PamrConfig

EIGHT = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def pamr(image_3HW: torch.Tensor, scores_JHW: torch.Tensor, config: PamrConfig) -> torch.Tensor:
    """Refine scores by the image's colours, on the device of the tensors.

    The affinity to a neighbour is the softmax over all neighbours of -|I_i - I_n| / (sigma s_i),
    averaged over the colours, with s_i the standard deviation of that colour around the pixel.
    Beyond the border the nearest pixel counts. The scale of the image does not matter.

    Args:
        image_3HW: (3, H, W), any real type.
        scores_JHW: (J, H, W) float.

    Returns:
        (J, H, W) float32; each value lies between the least and the largest of its channel.

    Raises:
        ValueError: sizes that differ.
    """
    if image_3HW.ndim != 3 or scores_JHW.ndim != 3 or image_3HW.shape[1:] != scores_JHW.shape[1:]:
        raise ValueError(
            f"scores of {tuple(scores_JHW.shape)} do not fit an image of {tuple(image_3HW.shape)}"
        )
    scores_JHW = scores_JHW.float()
    if not scores_JHW.numel():
        return scores_JHW
    affinity_NHW = _affinity(image_3HW.float(), config)
    for _ in range(config.iterations):
        scores_JHW = sum(
            weight_HW * neighbour_JHW
            for weight_HW, neighbour_JHW in zip(
                affinity_NHW, _neighbours(scores_JHW, config.dilations), strict=True
            )
        )
    return scores_JHW


def _affinity(image_3HW: torch.Tensor, config: PamrConfig) -> torch.Tensor:
    """Weights of the neighbours, (N, H, W), which sum to one over N."""
    # Differences instead of the colours themselves: the spread is the same, and more precise. The
    # pixel itself belongs to the window of each distance, with difference 0.
    count = 9 * len(config.dilations)
    total_3HW, squares_3HW = torch.zeros_like(image_3HW), torch.zeros_like(image_3HW)
    for neighbour_3HW in _neighbours(image_3HW, config.dilations):
        difference_3HW = neighbour_3HW - image_3HW
        total_3HW += difference_3HW
        squares_3HW += difference_3HW**2
    variance_3HW = (squares_3HW - total_3HW**2 / count) / (count - 1)
    scale_3HW = config.sigma * variance_3HW.clamp(min=0).sqrt() + 1e-8
    logits_NHW = torch.stack(
        [
            -((neighbour_3HW - image_3HW).abs() / scale_3HW).mean(0)
            for neighbour_3HW in _neighbours(image_3HW, config.dilations)
        ]
    )
    return logits_NHW.softmax(0)


def _neighbours(values_JHW: torch.Tensor, dilations: list[int]) -> Iterator[torch.Tensor]:
    """The N neighbours' values at every pixel, each (J, H, W), all eight of a distance in turn."""
    height, width = values_JHW.shape[1:]
    for d in dilations:
        padded = F.pad(values_JHW[None], (d, d, d, d), mode="replicate")[0]
        for y, x in EIGHT:
            yield padded[:, d + d * y : d + d * y + height, d + d * x : d + d * x + width]
