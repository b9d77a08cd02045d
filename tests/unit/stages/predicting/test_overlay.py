"""Overlays: the photograph is not hidden, classes get their colours, the legend names them."""

import numpy as np
import pytest

from dist_oaa.evaluation.pictures import PAGE
from dist_oaa.stages.predicting.overlay import (
    class_shares,
    drawing_colours,
    labelled_picture,
    share_text,
)

NAMES = ("cat", "a class with quite a long name", "dog")


def scene() -> tuple[np.ndarray, np.ndarray]:
    image_HW3 = np.full((120, 200, 3), 100, np.uint8)
    label_HW = np.zeros((120, 200), np.uint8)
    label_HW[20:60, 30:90], label_HW[80:100, 100:180] = 1, 3
    return image_HW3, label_HW


def test_the_background_stays_and_objects_are_half_their_colour():
    image_HW3, label_HW = scene()
    drawn_HW3 = labelled_picture(image_HW3, label_HW, NAMES)
    photo_HW3 = drawn_HW3[:120]
    assert drawn_HW3.shape[1] == 200
    assert (photo_HW3[label_HW == 0] == 100).all()
    assert photo_HW3[40, 60].tolist() == [
        round((100 + c) / 2) for c in drawing_colours()[1].tolist()
    ]
    # The line along the edge is lighter than the area.
    assert photo_HW3[20, 60].sum() > photo_HW3[40, 60].sum()
    assert (photo_HW3[19, 60] == 100).all()


def test_the_legend_shows_the_colours_of_the_classes_below_the_picture():
    image_HW3, label_HW = scene()
    strip_HW3 = labelled_picture(image_HW3, label_HW, NAMES)[120:]
    colours = {tuple(pixel) for pixel in strip_HW3.reshape(-1, 3).tolist()}
    assert PAGE in colours
    for label, shown in ((1, True), (2, False), (3, True)):
        assert (tuple(drawing_colours()[label].tolist()) in colours) == shown


def test_many_classes_wrap_and_tiny_pictures_get_a_page_wide_enough():
    names = tuple(f"class number {i}" for i in range(12))
    label_HW = np.repeat(np.arange(1, 13, dtype=np.uint8), 2)[:, None].repeat(3, axis=1)
    drawn_HW3 = labelled_picture(np.zeros((24, 3, 3), np.uint8), label_HW, names)
    one_HW3 = labelled_picture(np.zeros((24, 3, 3), np.uint8), np.ones_like(label_HW), names)
    assert drawn_HW3.shape[1] >= 160
    assert drawn_HW3.shape[0] > one_HW3.shape[0]


def test_an_image_without_objects_says_so():
    image_HW3, label_HW = scene()
    drawn_HW3 = labelled_picture(image_HW3, 0 * label_HW, NAMES)
    assert (drawn_HW3[:120] == image_HW3).all()
    assert (drawn_HW3[120:] != PAGE).any()  # letters


def test_large_photographs_are_shrunk():
    image_HW3, label_HW = scene()
    drawn_HW3 = labelled_picture(image_HW3, label_HW, NAMES, longest=100)
    assert drawn_HW3.shape[1] == 160  # the narrowest page, 100 of it the picture
    left = (160 - 100) // 2
    assert (drawn_HW3[5, left : left + 100] == 100).all()
    assert tuple(drawn_HW3[5, left - 1]) == PAGE


def test_sizes_that_differ_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        labelled_picture(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), NAMES)


def test_shares_leave_out_background_and_ignored_pixels():
    label_HW = np.array([[0, 1, 2, 2], [2, 255, 1, 0]], np.uint8)
    assert class_shares(label_HW) == [(2, 3 / 8), (1, 2 / 8)]
    assert [share_text(s) for s in (0.0001, 0.01, 0.234, 1.0)] == ["<1 %", "1 %", "23 %", "100 %"]


def test_colours_of_the_first_254_labels_differ():
    assert len({tuple(c) for c in drawing_colours()[1:255].tolist()}) == 254
