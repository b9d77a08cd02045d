"""The gallery of labels: image, attention, saliency, label, and the truth where there is any."""

import numpy as np

from dist_oaa.data.images import read_image, read_mask
from dist_oaa.evaluation.pictures import grid, mask_colours, overlay
from dist_oaa.stages.labelling.labelling import Drawn


def labels_picture(
    gallery: list[Drawn], class_names: tuple[str, ...], pixel_limit: float
) -> np.ndarray:
    """One image a row, at least one; columns that no image fills are left out.

    Args:
        pixel_limit: largest image that is read, in megapixels.
    """
    rows = [_row(drawn, pixel_limit) for drawn in gallery]
    titles = [
        f"{', '.join(class_names[c] for c in drawn.sample.classes)} {drawn.sample.id}"
        for drawn in gallery
    ]
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return grid([[row[name] for name in columns] for row in rows], titles, columns)


def _row(drawn: Drawn, pixel_limit: float) -> dict[str, np.ndarray | None]:
    image_HW3 = read_image(drawn.sample.path, pixel_limit)
    attention_SS, saliency_HW, mask = drawn.attention_SS, drawn.saliency_HW, drawn.sample.mask
    return {
        "image": image_HW3,
        "attention": None if attention_SS is None else overlay(image_HW3, attention_SS),
        "saliency": None if saliency_HW is None else grey(saliency_HW),
        "label (pale: ignored)": mask_colours(drawn.label_HW),
        "truth (not trained on)": None if mask is None else mask_colours(read_mask(mask)),
    }


def grey(saliency_HW: np.ndarray) -> np.ndarray:
    """A uint8 map as an RGB picture."""
    return np.stack([saliency_HW] * 3, axis=-1)
