"""Drawn boxes: where the lines lie, and in which colour."""

import numpy as np

from dist_oaa.evaluation.box_pictures import PREDICTION, TRUTH, draw_boxes


def test_lines_lie_inside_the_edges():
    blank_HW3 = np.zeros((30, 40, 3), dtype=np.uint8)
    drawn_HW3 = draw_boxes(blank_HW3, truth=[(5, 6, 25, 20)])
    red_HW = (drawn_HW3 == TRUTH).all(axis=2)
    rows, columns = np.nonzero(red_HW)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (5, 6, 25, 20)
    assert not drawn_HW3[~red_HW].any()
    assert not red_HW[10:16, 10:20].any()
    assert not blank_HW3.any()


def test_the_prediction_is_green_and_on_top():
    drawn_HW3 = draw_boxes(
        np.zeros((30, 40, 3), np.uint8), truth=[(5, 6, 25, 20)], predicted=[(5, 6, 39, 29)]
    )
    assert tuple(drawn_HW3[6, 15]) == PREDICTION
    assert tuple(drawn_HW3[19, 15]) == TRUTH
    assert tuple(drawn_HW3[28, 30]) == PREDICTION


def test_a_box_of_one_pixel():
    drawn_HW3 = draw_boxes(np.zeros((8, 8, 3), np.uint8), truth=[(3.0, 3.0, 3.5, 3.5)])
    assert tuple(drawn_HW3[3, 3]) == TRUTH
