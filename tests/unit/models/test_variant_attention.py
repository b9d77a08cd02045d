"""What the erasing networks have in common.

Legend: B images, C classes, H x W cells.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.models.variants.attention import (
    erased_classes,
    min_max,
    own_peak,
    union,
    valid_places,
)
from toys import erasing

EVERYWHERE = torch.ones(1, 1, 2, 2, dtype=torch.bool)


def test_own_peak_by_hand():
    maps = torch.tensor([[[[8.0, 2.0], [-1.0, 0.0]], [[-3.0, -1.0], [-2.0, -0.5]]]])
    assert own_peak(maps, EVERYWHERE).tolist() == [[[[1, 0.25], [0, 0]], [[0, 0], [0, 0]]]]
    upper = torch.tensor([[[[False, True], [True, True]]]])
    assert own_peak(maps, upper)[0, 0].tolist() == [[0, 1], [0, 0]]


def test_min_max_by_hand():
    maps = torch.tensor([[[[8.0, 2.0], [0.0, 4.0]], [[7.0, 7.0], [7.0, 7.0]]]])
    assert min_max(maps, EVERYWHERE).tolist() == [[[[1, 0.25], [0, 0.5]], [[0, 0], [0, 0]]]]
    upper = torch.tensor([[[[False, True], [True, True]]]])
    assert min_max(maps, upper)[0, 0].tolist() == [[0, 0.5], [0, 1]]


@pytest.mark.parametrize("normalise", [own_peak, min_max])
def test_what_is_not_a_number_stays_visible(normalise):
    maps = torch.tensor([[[[1.0, math.nan], [0.0, 2.0]]]])
    assert normalise(maps, EVERYWHERE).isnan().any()
    hidden = torch.tensor([[[[True, False], [True, True]]]])
    assert normalise(maps, hidden).tolist() == [[[[0.5, 0], [0, 1]]]]


def test_union_by_hand():
    maps = torch.tensor([[[[0.1, 0.9]], [[0.5, 0.2]], [[1.0, 1.0]]]]).expand(3, -1, -1, -1)
    classes = torch.tensor([[True, True, False], [False, True, False], [False, False, False]])
    expected = torch.tensor([[[[0.5, 0.9]]], [[[0.5, 0.2]]], [[[0.0, 0.0]]]])
    assert torch.equal(union(maps, classes), expected)


def test_erased_classes_by_hand():
    logits_BC = torch.tensor([[1.0, 2.0, -1.0], [-3.0, -2.0, -9.0], [0.0, -1.0, -1.0]])
    seen = [[True, True, False], [False, True, False], [True, False, False]]
    assert erased_classes(None, logits_BC).tolist() == seen
    labels = [[0, 0, 1], [1, 0, 1], [0, 0, 0]]
    assert erased_classes(erasing(labels), logits_BC).int().tolist() == labels


def test_of_one_class_an_image_the_highest_alone_is_erased():
    logits_BC = torch.tensor([[1.0, 2.0, -1.0], [-3.0, -2.0, -9.0]])
    assert erased_classes(None, logits_BC, True).tolist() == [[False, True, False]] * 2
    known = erased_classes(erasing([[0, 0, 1], [1, 0, 0]]), logits_BC, True)
    assert known.tolist() == [[False, False, True], [True, False, False]]


def test_valid_places_by_hand():
    features = torch.zeros(2, 5, 2, 3)
    assert valid_places(None, features).all()
    assert valid_places(None, features).shape == (2, 1, 2, 3)
    places = valid_places(torch.tensor([[1, 2], [2, 3]]), features)
    assert places[0, 0].tolist() == [[True, True, False], [False, False, False]]
    assert places[1].all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=3),
    st.integers(0, 99),
)
def test_against_a_loop(cells, seed):
    generator = torch.Generator().manual_seed(seed)
    maps_BCHW = torch.randint(-3, 4, (len(cells), 2, 5, 4), generator=generator).float()
    valid_B1HW = valid_places(torch.tensor(cells), maps_BCHW)
    peaks, scaled = own_peak(maps_BCHW, valid_B1HW), min_max(maps_BCHW, valid_B1HW)
    for b, (rows, columns) in enumerate(cells):
        for c in range(2):
            values = [maps_BCHW[b, c, y, x].item() for y in range(rows) for x in range(columns)]
            low, high = min(values), max(values)
            for y in range(5):
                for x in range(4):
                    value, inside = maps_BCHW[b, c, y, x].item(), y < rows and x < columns
                    peak = max(value, 0) / high if inside and high > 0 else 0
                    share = (value - low) / (high - low) if inside and high > low else 0
                    assert peaks[b, c, y, x].item() == pytest.approx(peak, rel=1e-6)
                    assert scaled[b, c, y, x].item() == pytest.approx(share, rel=1e-6)
