"""Geometries against points that are mapped by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.data.geometry import HORIZONTAL_FLIP_23, IDENTITY_23, crop_23, inverse, then

coordinate = st.floats(-2, 3)
points = st.tuples(coordinate, coordinate)
share = st.floats(0.05, 1)


def apply(geometry_23: np.ndarray, point: tuple[float, float]) -> tuple[float, float]:
    u, v = point
    (a, b, c), (d, e, f) = geometry_23.tolist()
    return a * u + b * v + c, d * u + e * v + f


@st.composite
def boxes(draw) -> tuple[float, float, float, float]:
    width, height = draw(share), draw(share)
    return draw(st.floats(0, 1 - width)), draw(st.floats(0, 1 - height)), width, height


@st.composite
def geometries(draw) -> np.ndarray:
    numbers = [draw(st.floats(-3, 3)) for _ in range(6)]
    geometry_23 = np.array(numbers).reshape(2, 3)
    if abs(np.linalg.det(geometry_23[:, :2])) < 0.05:
        geometry_23[:, :2] += np.diag([4.0, 9.0])
    return geometry_23


def test_points_by_hand():
    assert apply(IDENTITY_23, (0.2, 0.7)) == (0.2, 0.7)
    assert apply(HORIZONTAL_FLIP_23, (0.25, 0.7)) == (0.75, 0.7)
    quarter = crop_23(0.5, 0.25, 0.5, 0.25)
    assert apply(quarter, (0.5, 0.25)) == (0, 0)
    assert apply(quarter, (1.0, 0.5)) == (1, 1)
    assert apply(quarter, (0.75, 0.25)) == (0.5, 0)
    assert apply(quarter, (0.0, 0.0)) == (-1, -1)
    # Cropping the right half and flipping puts the image's right border at the left.
    assert apply(then(crop_23(0.5, 0, 0.5, 1), HORIZONTAL_FLIP_23), (1.0, 0.3)) == (0, 0.3)
    # The other way round the image's left half is what remains.
    assert apply(then(HORIZONTAL_FLIP_23, crop_23(0.5, 0, 0.5, 1)), (0.0, 0.3)) == (1, 0.3)


@given(boxes(), points)
def test_crop_is_the_position_within_the_box(box, point):
    left, top, width, height = box
    expected = ((point[0] - left) / width, (point[1] - top) / height)
    assert apply(crop_23(*box), point) == pytest.approx(expected, abs=1e-9)


@given(geometries(), geometries(), points)
def test_then_is_one_after_the_other(first_23, second_23, point):
    expected = apply(second_23, apply(first_23, point))
    assert apply(then(first_23, second_23), point) == pytest.approx(expected, abs=1e-8)


@given(geometries(), points)
def test_inverse_leads_back(geometry_23, point):
    assert abs(np.linalg.det(geometry_23[:, :2])) > 1e-3
    there = apply(geometry_23, point)
    assert apply(inverse(geometry_23), there) == pytest.approx(point, abs=1e-6)


@given(boxes(), boxes())
def test_a_crop_of_a_crop_is_a_crop(outer, inner):
    left, top = outer[0] + inner[0] * outer[2], outer[1] + inner[1] * outer[3]
    expected = crop_23(left, top, outer[2] * inner[2], outer[3] * inner[3])
    composed = then(crop_23(*outer), crop_23(*inner))
    np.testing.assert_allclose(composed, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("box", [(0, 0, 0, 1), (0, 0, 1, 0), (0.5, 0.5, -0.1, 0.2)])
def test_a_crop_without_area_is_refused(box):
    with pytest.raises(ValueError, match="no area"):
        crop_23(*box)


def test_a_collapsed_geometry_has_no_inverse():
    with pytest.raises(ValueError, match="not invertible"):
        inverse(np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]]))


def test_composing_leaves_its_parts_alone():
    before = IDENTITY_23.copy(), HORIZONTAL_FLIP_23.copy()
    then(IDENTITY_23, HORIZONTAL_FLIP_23)[0, 0] = 9
    np.testing.assert_array_equal(IDENTITY_23, before[0])
    np.testing.assert_array_equal(HORIZONTAL_FLIP_23, before[1])
