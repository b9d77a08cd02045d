"""A picture of what the affinity network has learnt: where it sees boundaries.

RUN/pictures/boundaries.png     image | label it learnt from | boundaries | truth
Legend: H x W pixels, D channels, h x w cells.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dist_oaa.data.affinity_labels import ConfidentLabels
from dist_oaa.data.images import BadImageError, read_image, read_mask
from dist_oaa.data.sample import Sample
from dist_oaa.evaluation.maps import resize_map
from dist_oaa.evaluation.pictures import grid, mask_colours, save_png
from dist_oaa.models.affinity_losses import half_disc, pair_distances, pair_slices
from dist_oaa.runtime.files import named_disk_errors
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.stages.learned_affinity import LearnedAffinity

NAME = "boundaries"


def boundaries(features_Dhw: np.ndarray) -> np.ndarray:
    """How little each cell belongs with its four neighbours: 1 - their mean affinity, (h, w)."""
    features_1Dhw = torch.from_numpy(features_Dhw)[None]
    offsets = half_disc(1)
    affinity_Phw = torch.exp(-pair_distances(features_1Dhw, offsets)[0]).numpy()
    height, width = affinity_Phw.shape[1:]
    sum_hw, count_hw = np.zeros((2, height, width), np.float32)
    for p, offset in enumerate(offsets):
        first, second = pair_slices(offset, height, width)
        for cells in (first, second):
            sum_hw[cells] += affinity_Phw[p][first]
            count_hw[cells] += 1
    return (count_hw - sum_hw) / np.maximum(count_hw, 1)


def draw_boundaries(
    run_dir: Path,
    learned: LearnedAffinity,
    labels: ConfidentLabels,
    samples: Sequence[Sample],
    step: int,
    tracker: Tracker,
) -> None:
    """Draws some images on rank 0, in the run directory and in TensorBoard.

    Raises:
        UserError: when a label or a mask cannot be used, or the disk refuses.
    """
    rows, names = [], []
    for sample in samples:
        try:
            image_HW3 = read_image(sample.path, learned.data.pixel_limit)
        except BadImageError:
            continue  # data.on_bad_image has decided about it
        names.append(sample.id)
        edge_HW = resize_map(boundaries(learned.features(image_HW3)), *image_HW3.shape[:2])
        # Light where cells belong together: thin dark outlines are what is looked for.
        grey_HW = np.rint(255 * np.clip(1 - edge_HW, 0, 1)).astype(np.uint8)
        label_HW = labels.read(sample, image_HW3.shape[:2])
        truth = None if sample.mask is None else mask_colours(read_mask(sample.mask))
        rows.append([image_HW3, mask_colours(label_HW), np.stack([grey_HW] * 3, -1), truth])
    if not rows:
        return
    titles = ["image", "label", "boundaries", "truth"]
    if all(row[3] is None for row in rows):
        rows, titles = [row[:3] for row in rows], titles[:3]
    picture = grid(rows, names, titles)
    with named_disk_errors(str(run_dir / "pictures")):
        save_png(run_dir / "pictures" / f"{NAME}.png", picture)
        tracker.image(NAME, picture, step)
