"""Spaces: what they hold, what is tried, and what is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.config.errors import UserError
from dist_oaa.stages.tuning.space import (
    corners,
    describe,
    grid,
    random_points,
    read_spaces,
    short_names,
    varied,
)

GRID = {"drop.delta": {"grid": [0.1, 0.6]}, "drop": {"beta": {"grid": [0.3, 0.5]}}, "seed2": 7}


def test_a_grid_is_every_combination_in_order_with_nested_and_fixed_settings():
    (space,) = read_spaces(GRID, "file")
    assert [tuple(point.values()) for point in grid([space])] == [
        (0.1, 0.3, 7),
        (0.1, 0.5, 7),
        (0.6, 0.3, 7),
        (0.6, 0.5, 7),
    ]
    assert list(space) == ["drop.delta", "drop.beta", "seed2"]
    assert varied([space]) == ["drop.delta", "drop.beta"]


def test_points_that_two_spaces_share_are_tried_once():
    spaces = read_spaces(
        [
            {"d": {"grid": [0.4, 0.6]}, "b": 0.5},
            {"d": 0.6, "b": {"grid": [0.3, 0.5]}},
        ],
        "file",
    )
    assert grid(spaces) == [{"d": 0.4, "b": 0.5}, {"d": 0.6, "b": 0.5}, {"d": 0.6, "b": 0.3}]
    assert varied(spaces) == ["d", "b"]


def test_two_spaces_of_single_values_vary_what_differs_between_them():
    spaces = read_spaces([{"d": 1, "b": {"grid": [2, 3]}}, {"d": 4, "b": 2}], "file")
    assert varied(spaces) == ["d", "b"]


@given(seed=st.integers(0, 1000), samples=st.integers(1, 30))
def test_random_points_lie_in_their_ranges_and_depend_on_the_seed_alone(seed, samples):
    tree = {
        "u": {"uniform": [0.1, 0.9]},
        "l": {"loguniform": [1e-4, 1e-1]},
        "q": {"quniform": [0.1, 0.9, 0.2]},
        "r": {"randint": [2, 5]},
        "c": {"choice": ["a", "b"]},
    }
    (space,) = read_spaces(tree, "file")
    points = random_points(space, samples, seed)
    assert points == random_points(space, samples, seed)
    assert len(points) == samples
    for point in points:
        assert 0.1 <= point["u"] <= 0.9
        assert 1e-4 <= point["l"] <= 1e-1
        assert 0.1 <= point["q"] <= 0.9
        steps = point["q"] / 0.2
        assert min(abs(steps - round(steps)), abs(point["q"] - 0.1), abs(point["q"] - 0.9)) < 1e-9
        assert point["r"] in (2, 3, 4)
        assert isinstance(point["r"], int)
        assert point["c"] in ("a", "b")


def test_loguniform_spreads_over_the_decades():
    (space,) = read_spaces({"l": {"loguniform": [1e-4, 1.0]}}, "file")
    decades = [math.floor(math.log10(p["l"])) for p in random_points(space, 400, 0)]
    assert all(60 < decades.count(d) < 140 for d in (-4, -3, -2, -1))


def test_a_small_space_gives_fewer_random_points_than_asked_for():
    (space,) = read_spaces({"c": {"choice": [1, 2, 3]}}, "file")
    assert sorted(p["c"] for p in random_points(space, 10, 0)) == [1, 2, 3]


def test_corners_hold_every_listed_value_and_both_ends():
    (space,) = read_spaces({"c": {"choice": [1, 2, 3]}, "r": {"randint": [4, 9]}}, "file")
    points = corners(space)
    assert {p["c"] for p in points} == {1, 2, 3}
    assert {p["r"] for p in points} == {4, 8}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"d": {"grid": []}}, "d of space in file is .grid: ..., expected a list of values"),
        ({"d": {"grid": [1, 1]}}, "expected each value once"),
        ({"d": {"uniform": [2, 1]}}, r"expected \[LOW, HIGH\] with LOW < HIGH"),
        ({"d": {"uniform": [1]}}, r"expected \[LOW, HIGH\]"),
        ({"d": {"uniform": ["a", "b"]}}, r"expected \[LOW, HIGH\]"),
        ({"d": {"quniform": [0, 1]}}, r"expected \[LOW, HIGH, STEP\]"),
        ({"d": {"loguniform": [0, 1]}}, "expected numbers above 0"),
        ({"d": {"randint": [0.5, 2]}}, "expected whole numbers"),
        ({"d": {"grid": [1, 2], "choice": [1]}}, "expected one of grid, choice"),
        ({"d": 1}, "no setting with more than one value"),
        (["d"], "expected lines of `key: value`"),
    ],
)
def test_a_wrong_space_is_refused_in_one_sentence(tree, message):
    with pytest.raises(UserError, match=message):
        read_spaces(tree, "file")


def test_a_grid_refuses_ranges():
    with pytest.raises(UserError, match="uniform, but search"):
        grid(read_spaces({"drop.delta": {"uniform": [0, 1]}}, "file"))


def test_names_are_short_unless_two_would_be_alike():
    assert short_names(["drop.delta", "optim.lr"]) == {"drop.delta": "delta", "optim.lr": "lr"}
    assert short_names(["a.lr", "b.lr"]) == {"a.lr": "a.lr", "b.lr": "b.lr"}
    assert describe({"drop.delta": 0.123456, "c": "x"}, ["drop.delta", "c"]) == "delta 0.1235, c x"
