"""A label image or a box drawn over its photograph, with the names of the classes in a strip below.

Shapes: HW3 an RGB image, HW labels (0 background, class index + 1, 255 ignored).
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dist_oaa.evaluation.box_pictures import PREDICTION, draw_boxes
from dist_oaa.evaluation.pictures import PAGE, TEXT, mask_colours

OPACITY = 0.5
"""Weight of a class's colour against the photograph, 0 to 1."""
NARROWEST = 160
"""Least width of a drawing in pixels, so that a legend can be read under a tiny picture."""
FONT_RANGE = (12, 40)
"""Least and greatest height of the legend's letters, in pixels."""
FONT_SHARE = 1 / 40
"""Height of the letters as a share of the drawing's width, between these bounds."""

NOTHING = "no object found"

Colour = tuple[int, int, int]


def labelled_picture(
    image_HW3: np.ndarray, label_HW: np.ndarray, class_names: Sequence[str], longest: int = 0
) -> np.ndarray:
    """Draw the classes of an image over it in translucent colours, and name them below it.

    The legend lists the classes that occur, the largest first, each with its share of the image;
    it lies in a strip of its own, so that it hides nothing.

    Args:
        image_HW3: (H, W, 3) uint8 RGB.
        label_HW: (H, W) integer labels, 0 background.
        class_names: of the object classes; label k + 1 is called class_names[k].
        longest: largest side of the drawn photograph in pixels, 0 for any.

    Returns:
        (H' + strip, W', 3) uint8 RGB.

    Raises:
        ValueError: sizes that differ.
    """
    if label_HW.shape != image_HW3.shape[:2]:
        raise ValueError(f"labels {label_HW.shape} do not fit the image {image_HW3.shape[:2]}")
    colours = [tuple(colour) for colour in drawing_colours().tolist()]
    entries = [
        (f"{class_names[value - 1]} {share_text(share)}", colours[value])
        for value, share in class_shares(label_HW)
    ]
    height, width = label_HW.shape
    factor = longest / max(height, width) if longest else 1.0
    if factor < 1:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        image_HW3 = cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA)
        label_HW = cv2.resize(label_HW, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return _with_legend(_tinted(image_HW3, label_HW), entries)


def boxed_picture(
    image_HW3: np.ndarray,
    box: Sequence[float] | None,
    entries: Sequence[str],
    longest: int = 0,
) -> np.ndarray:
    """Draw the box of an image's object in green, and name its class below it.

    Args:
        image_HW3: (H, W, 3) uint8 RGB.
        box: (x0, y0, x1, y1), its edges in pixels; None draws none.
        entries: texts of the strip below.
        longest: largest side of the drawn photograph in pixels, 0 for any.

    Returns:
        (H' + strip, W', 3) uint8 RGB.
    """
    height, width = image_HW3.shape[:2]
    factor = min(1.0, longest / max(height, width)) if longest else 1.0
    if factor < 1:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        image_HW3 = cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA)
    boxes = [] if box is None else [[factor * edge for edge in box]]
    drawn_HW3 = draw_boxes(image_HW3, predicted=boxes)
    return _with_legend(drawn_HW3, [(text, PREDICTION) for text in entries])


def class_shares(label_HW: np.ndarray) -> list[tuple[int, float]]:
    """(label, share of the pixels) of each object class that occurs, the largest first."""
    count_V = np.bincount(label_HW.ravel(), minlength=256)
    values = [v for v in np.flatnonzero(count_V).tolist() if v not in (0, 255)]
    return sorted(((v, count_V[v] / label_HW.size) for v in values), key=lambda e: (-e[1], e[0]))


def drawing_colours() -> np.ndarray:
    """(256, 3) uint8: a colour for each label, that of its mask in VOC's palette, but lighter.

    That palette is made for black pages: half transparent it would only darken a photograph.
    """
    return np.rint(255 * (mask_colours(np.arange(256)) / 255) ** 0.6).astype(np.uint8)


def _tinted(image_HW3: np.ndarray, label_HW: np.ndarray) -> np.ndarray:
    """Colours over the objects, each with a fine light line inside its edge; the rest stays."""
    colour_HW3 = drawing_colours()[label_HW]
    object_HW1 = ((label_HW != 0) & (label_HW != 255))[..., None]
    mixed_HW3 = np.rint(image_HW3 * (1 - OPACITY) + colour_HW3 * OPACITY).astype(np.uint8)
    out_HW3 = np.where(object_HW1, mixed_HW3, image_HW3)
    # Pixels with a smaller label beside them: one side of each edge, so thin objects stay visible.
    near_HW = cv2.erode(label_HW.astype(np.uint8), np.ones((3, 3), np.uint8))
    edge_HW = (near_HW < label_HW) & object_HW1[..., 0]
    out_HW3[edge_HW] = 255 - (255 - colour_HW3[edge_HW]) // 3
    return out_HW3


def _with_legend(picture_HW3: np.ndarray, entries: list[tuple[str, Colour]]) -> np.ndarray:
    """The picture above a strip with a patch of colour and a text for each entry."""
    height, width = picture_HW3.shape[:2]
    size = int(np.clip(max(width, NARROWEST) * FONT_SHARE, *FONT_RANGE))
    font, gap = ImageFont.load_default(size=size), round(0.6 * size)
    boxes = [(text, colour, math.ceil(font.getlength(text))) for text, colour in entries]
    page_width = max(width, NARROWEST, *(2 * gap + 2 * size + w for *_, w in boxes))
    places, x, y = [], gap, height + gap
    for text, colour, text_width in boxes:
        if x > gap and x + 2 * size + text_width + gap > page_width:
            x, y = gap, y + round(1.6 * size)
        places.append((x, y, text, colour))
        x += round(1.4 * size) + text_width + 2 * gap
    page = Image.new("RGB", (page_width, y + size + gap + 1), PAGE)
    page.paste(Image.fromarray(picture_HW3), ((page_width - width) // 2, 0))
    draw = ImageDraw.Draw(page)
    if not places:
        draw.text((gap, y + size / 2), NOTHING, TEXT, font, "lm")
    for x, y, text, colour in places:
        draw.rectangle((x, y, x + size, y + size), fill=colour)
        draw.text((x + 1.4 * size, y + size / 2), text, TEXT, font, "lm")
    return np.array(page)


def share_text(share: float) -> str:
    """A share of an image as people read it; what is there is never called 0 %."""
    return "<1 %" if share < 0.005 else f"{100 * share:.0f} %"
