"""The picture of the confusion matrix: what stands in which cell, and that all names fit."""

import numpy as np
import pytest

from dist_oaa.evaluation.confusion_picture import DARK, LARGEST_CELL, confusion_picture

NAMES = ("background", "cat", "dog")


def cells(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Colour near each cell's corner, away from its number; they end 8 pixels from the edges."""
    cell = LARGEST_CELL
    bottom, right = picture.shape[0] - 8, picture.shape[1] - 8
    y = bottom - cell * np.arange(rows, 0, -1) + 3
    x = right - cell * np.arange(columns, 0, -1) + 3
    return picture[y[:, None], x[None]]


def wide_names() -> tuple[str, ...]:
    """So that the title is narrower than the cells."""
    return tuple(f"class {k}" for k in range(10))


def test_rows_are_divided_by_their_sums():
    counts = np.zeros((10, 11), np.int64)
    counts[0, 0], counts[1, 1], counts[1, 0] = 10**9, 3, 1
    shown = cells(confusion_picture(counts, wide_names()), 10, 10).astype(int)
    assert shown[0, 0].tolist() == DARK.tolist()
    assert shown[0, 1].tolist() == [255, 255, 255]
    # Square roots of 3/4 and 1/4.
    assert shown[1, 1].tolist() == np.rint(255 + (DARK - 255) * 0.75**0.5).tolist()
    assert shown[1, 0].tolist() == np.rint(255 + (DARK - 255) * 0.5).tolist()
    # A class that no mask shows is neither white nor dark.
    assert (shown[2] == 250).all()


def test_ignored_predictions_have_a_column_of_their_own():
    counts = np.eye(10, 11, dtype=np.int64)
    without = confusion_picture(counts, wide_names())
    counts[:, -1] = 1
    with_them = confusion_picture(counts, wide_names())
    assert with_them.shape[1] == without.shape[1] + LARGEST_CELL
    shown = cells(with_them, 10, 11).astype(int)
    half = np.rint(255 + (DARK - 255) * 0.5**0.5)
    assert (shown[:, -1] == half).all()
    assert (shown[range(10), range(10)] == half).all()


def test_numbers_are_written():
    counts = np.eye(10, 11, dtype=np.int64)
    drawn = confusion_picture(counts, wide_names())
    cell = LARGEST_CELL
    y, x = drawn.shape[0] - 8 - cell, drawn.shape[1] - 8 - cell
    middle = drawn[y + 6 : y + cell - 6, x + 4 : x + cell - 4]
    assert (middle > 200).any(), "100 in light letters on the dark cell"


@pytest.mark.parametrize("labels", [2, 21, 81, 255])
def test_any_number_of_classes_with_any_names(labels):
    rng = np.random.default_rng(labels)
    counts = rng.integers(0, 100, (labels, labels + 1))
    names = [f"a class with a name that is far too long {k}" for k in range(labels)]
    picture = confusion_picture(counts, names)
    assert picture.dtype == np.uint8
    height, width = picture.shape[:2]
    assert height < 200 + 34 * labels
    assert width < 360 + 34 * labels
    if labels == 21:
        assert width < 1000


def test_refuses_names_that_do_not_fit():
    with pytest.raises(ValueError, match="3 names do not fit"):
        confusion_picture(np.zeros((3, 3), np.int64), NAMES)
