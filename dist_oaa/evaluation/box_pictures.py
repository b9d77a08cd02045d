"""Boxes drawn over photographs: the truth in red, the prediction in green.

Shapes: HW3 an RGB uint8 image; a box is (x0, y0, x1, y1), its edges in pixels.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

TRUTH = (226, 35, 45)
PREDICTION = (40, 205, 75)
LINE_SHARE = 1 / 70
"""Width of a line as a share of the picture's longer side, so that it survives being shrunk."""


def draw_boxes(
    image_HW3: np.ndarray,
    truth: Iterable[Sequence[float]] = (),
    predicted: Iterable[Sequence[float]] = (),
) -> np.ndarray:
    """The image with red and green boxes; lines lie inside the edges, the prediction on top.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    picture = Image.fromarray(image_HW3)
    draw = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) * LINE_SHARE))
    for boxes, colour, line in (
        (truth, TRUTH, width),
        (predicted, PREDICTION, max(1, 2 * width // 3)),
    ):
        for x0, y0, x1, y1 in boxes:
            # PIL's corners are pixels, both of them drawn.
            right, bottom = max(x0, x1 - 1), max(y0, y1 - 1)
            draw.rectangle((x0, y0, right, bottom), outline=colour, width=line)
    return np.array(picture)
