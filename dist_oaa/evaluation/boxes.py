"""From a map to boxes, and how well boxes meet.

A box is (x0, y0, x1, y1): the edges in pixels, x1 and y1 exclusive, so that a mask whose columns
j to k are set has x0 = j and x1 = k + 1.

Shapes: HW a map over the pixels of its image; T thresholds, K components of one mask, M boxes of
the truth; 4 the edges of a box.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torchvision.ops import box_iou

from dist_oaa.evaluation.maps import largest_value

PARENT = 3
"""Where OpenCV's hierarchy of outlines names the component that a hole lies in."""


def component_boxes(mask_HW: np.ndarray) -> np.ndarray:
    """The tight boxes of a mask's connected components (8 neighbours), the largest first.

    Returns:
        (K, 4) float64, ordered by the number of pixels; of equal ones the uppermost, then the
        leftmost, comes first.
    """
    outlines, levels = cv2.findContours(
        np.ascontiguousarray(mask_HW, dtype=np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    if levels is None:
        return np.empty((0, 4))
    # Outlines are some twenty times faster than labelling every pixel, and a sweep makes a hundred
    # masks of each map. An outline runs through the middles of its border pixels, so by Pick's
    # theorem a component has area + border / 2 + 1 pixels, less those of its holes.
    found: dict[int, tuple[tuple[int, ...], float]] = {}
    for number, (outline, level) in enumerate(zip(outlines, levels[0], strict=True)):
        if level[PARENT] < 0:
            x0, y0, width, height = cv2.boundingRect(outline)
            # A lone pixel's outline is that one point.
            pixels = cv2.contourArea(outline) + len(outline) / 2 + 1 if len(outline) > 1 else 1
            found[number] = (x0, y0, x0 + width, y0 + height), pixels
    for outline, level in zip(outlines, levels[0], strict=True):
        if (parent := int(level[PARENT])) >= 0:
            box, pixels = found[parent]
            found[parent] = box, pixels - (cv2.contourArea(outline) - len(outline) / 2 + 1)
    ordered = sorted(found.values(), key=lambda entry: (-entry[1], entry[0][1], entry[0][0]))
    return np.array([box for box, _ in ordered], dtype=np.float64)


def single_box(boxes_K4: np.ndarray, components: str) -> np.ndarray | None:
    """The one box of a mask with these components: that of the largest, or one around all.

    Returns:
        (4,) float64; None where there is no component.
    """
    if not len(boxes_K4):
        return None
    if components == "largest":
        return boxes_K4[0]
    return np.concatenate([boxes_K4[:, :2].min(axis=0), boxes_K4[:, 2:].max(axis=0)])


def above(map_HW: np.ndarray, threshold: float) -> np.ndarray:
    """Bool (H, W): the pixels above a share of the map's own maximum; none where that is <= 0.

    Raises:
        ValueError: the map is not finite.
    """
    maximum = largest_value(map_HW)
    if maximum <= 0:
        return np.zeros(map_HW.shape, dtype=bool)
    return map_HW > np.float32(threshold) * maximum


@dataclass(frozen=True)
class Overlaps:
    """How well the boxes of a map meet the truth at each threshold: the best IoU over the boxes of
    the truth, float64 (T,), 0 where there is no box."""

    single_T: np.ndarray
    """Of the box that `components` asks for."""
    largest_T: np.ndarray
    """Of the largest component's box: MaxBoxAcc."""
    best_T: np.ndarray
    """Of the component whose box is best: MaxBoxAccV2."""


def overlaps(
    map_HW: np.ndarray, truth_M4: np.ndarray, thresholds_T: np.ndarray, components: str
) -> Overlaps:
    """Sweeps the threshold over the map of one class of one image.

    Args:
        map_HW: float32.
        truth_M4: boxes of that class, M >= 1.
        thresholds_T: shares of the map's maximum.
        components: largest or all.
    """
    boxes, ends = [], [0]
    for threshold in thresholds_T:
        boxes_K4 = component_boxes(above(map_HW, threshold))
        one = single_box(boxes_K4, components)
        if one is not None:
            boxes += [one[None], boxes_K4]
        ends.append(ends[-1] + (0 if one is None else 1 + len(boxes_K4)))
    found_3T = np.zeros((3, len(thresholds_T)))
    if not boxes:
        return Overlaps(*found_3T)
    truth = torch.as_tensor(np.asarray(truth_M4, dtype=np.float64))
    iou_N = box_iou(torch.from_numpy(np.concatenate(boxes)), truth).amax(dim=1).numpy()
    for t, (start, end) in enumerate(itertools.pairwise(ends)):
        if start < end:
            found_3T[:, t] = iou_N[start], iou_N[start + 1], iou_N[start + 1 : end].max()
    return Overlaps(*found_3T)


def best_iou(predicted: Sequence[Sequence[float]], truth: Sequence[Sequence[float]]) -> float:
    """The greatest IoU of any predicted box with any true one; 0 where either list is empty."""
    if not len(predicted) or not len(truth):
        return 0.0
    boxes = (torch.tensor(np.asarray(each, dtype=np.float64)) for each in (predicted, truth))
    return float(box_iou(*boxes).max())
