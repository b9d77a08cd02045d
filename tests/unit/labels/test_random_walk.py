"""The random walk: its edges by definition, its matrix, and what it can and cannot reach."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.config.labels import RandomWalkConfig
from dist_oaa.labels.random_walk import (
    Edges,
    colour_edges,
    feature_edges,
    random_walk,
    transition_matrix,
)

LEARNED = {"affinity": "learned", "checkpoint": "somewhere"}
FEATURES = {"affinity": "features", "checkpoint": "somewhere"}


def as_dict(edges):
    keys = zip(edges.rows_E.tolist(), edges.columns_E.tolist(), strict=True)
    found = dict(zip(keys, edges.weight_E.tolist(), strict=True))
    assert len(found) == len(edges.weight_E), "a pair appears twice"
    return found


def naive_edges(vectors, radius, affinity):
    """Every ordered pair of different cells within the radius, by looking at all pairs."""
    h, w = vectors.shape[:2]
    cells = [(y, x) for y in range(h) for x in range(w)]
    return {
        (a[0] * w + a[1], b[0] * w + b[1]): affinity(vectors[a], vectors[b])
        for a in cells
        for b in cells
        if a != b and (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 <= radius**2
    }


@pytest.mark.parametrize(("shape", "radius"), [((4, 6), 2), ((3, 3), 5), ((1, 5), 2), ((1, 1), 3)])
def test_edges_equal_a_loop_over_all_pairs(shape, radius):
    rng = np.random.default_rng(7)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    features = rng.normal(size=(5, *shape))
    by_cell = np.moveaxis(features, 0, -1)
    cases = [
        (
            colour_edges(image, RandomWalkConfig(radius=radius)),
            naive_edges(lab, radius, lambda a, b: np.exp(-np.linalg.norm(a - b) / 10)),
        ),
        (
            feature_edges(features, RandomWalkConfig(radius=radius, **LEARNED)),
            naive_edges(by_cell, radius, lambda a, b: np.exp(-np.abs(a - b).mean())),
        ),
        (
            feature_edges(features, RandomWalkConfig(radius=radius, **FEATURES)),
            naive_edges(
                by_cell,
                radius,
                lambda a, b: max(0.0, a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
            ),
        ),
    ]
    for edges, wanted in cases:
        got = as_dict(edges)
        assert edges.grid == shape
        assert got.keys() == wanted.keys()
        np.testing.assert_allclose([got[k] for k in wanted], list(wanted.values()), atol=1e-6)


def test_an_image_becomes_a_grid_of_its_own_aspect():
    config = RandomWalkConfig(grid=20)
    assert colour_edges(np.zeros((100, 200, 3), np.uint8), config).grid == (10, 20)
    assert colour_edges(np.zeros((300, 7, 3), np.uint8), config).grid == (20, 1)
    # A small image keeps its pixels.
    assert colour_edges(np.zeros((5, 6, 3), np.uint8), config).grid == (5, 6)


@st.composite
def graphs(draw):
    """Random features on a small grid with random settings."""
    h, w = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    config = RandomWalkConfig(
        radius=draw(st.integers(1, 4)),
        beta=draw(st.sampled_from([0.5, 1.0, 8.0])),
        steps=draw(st.integers(0, 6)),
        **LEARNED,
    )
    features = rng.normal(size=(3, h, w)) * draw(st.sampled_from([0.0, 1.0, 50.0]))
    scores = rng.random((draw(st.integers(1, 3)), h, w)).astype(np.float32)
    return feature_edges(features, config), scores, config


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_rows_sum_to_one_and_edges_are_symmetric(graph):
    edges, _, config = graph
    found = as_dict(edges)
    assert all(found[b, a] == weight for (a, b), weight in found.items())
    assert all(a != b and 0 <= weight <= 1 for (a, b), weight in found.items())
    matrix = transition_matrix(edges, config.beta)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)
    assert (matrix.data >= 0).all()


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_agrees_with_a_dense_matrix_power(graph):
    edges, scores, config = graph
    cells = edges.grid[0] * edges.grid[1]
    dense = np.eye(cells)
    for (a, b), weight in as_dict(edges).items():
        dense[a, b] = weight**config.beta
    power = np.linalg.matrix_power(dense / dense.sum(1, keepdims=True), config.steps)
    wanted = (power @ scores.reshape(len(scores), -1).T).T.reshape(scores.shape)
    wanted[1:] /= wanted[1:].max((1, 2), keepdims=True)
    np.testing.assert_allclose(random_walk(scores, edges, config), wanted, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(graphs(), st.floats(0, 1), st.integers(1, 9), st.integers(1, 9))
def test_a_constant_background_stays_and_nothing_leaves_its_range(graph, value, height, width):
    edges, _, config = graph
    rng = np.random.default_rng(height * 10 + width)
    scores = rng.random((3, height, width)).astype(np.float32)
    scores[0] = value
    scores[2] = 0
    got = random_walk(scores, edges, config)
    assert got.shape == scores.shape
    np.testing.assert_allclose(got[0], np.float32(value), atol=1e-5)
    assert got[1].min() >= 0
    assert got[1].max() <= 1 + 1e-6
    # A class without attention gets none.
    assert (got[2] == 0).all()


def test_regions_that_are_not_joined_do_not_mix():
    # Two cells left, two right; the walk between them is closed.
    pairs = [(0, 1, 0.9), (2, 3, 0.5), (1, 2, 0.0)]
    edges = Edges(
        grid=(1, 4),
        rows_E=np.array([a for a, _, _ in pairs] + [b for _, b, _ in pairs]),
        columns_E=np.array([b for _, b, _ in pairs] + [a for a, _, _ in pairs]),
        weight_E=np.array([w for _, _, w in pairs] * 2, np.float32),
    )
    scores = np.array([[[0.3, 0.3, 0.3, 0.3]], [[1, 0, 0, 0]]], np.float32)
    got = random_walk(scores, edges, RandomWalkConfig(steps=500, beta=1))
    np.testing.assert_allclose(got[1, 0], [1, 1, 0, 0], atol=1e-5)


def test_scores_fill_the_object_and_stop_at_its_edge():
    image = np.full((60, 80, 3), (40, 120, 50), np.uint8)
    image[15:45, 20:60] = (220, 60, 40)
    scores = np.zeros((2, 60, 80), np.float32)
    scores[0], scores[1, 25:35, 25:32] = 0.3, 1  # a small part of it
    got = random_walk(scores, *walk_on(image, RandomWalkConfig(grid=40)))
    truth = np.zeros((60, 80), bool)
    truth[15:45, 20:60] = True
    inside = got.argmax(0) == 1
    assert (inside & truth).sum() / (inside | truth).sum() > 0.9


def walk_on(image, config):
    return colour_edges(image, config), config


def test_refusals():
    edges, config = walk_on(np.zeros((4, 4, 3), np.uint8), RandomWalkConfig())
    with pytest.raises(ValueError, match="J x H x W and finite"):
        random_walk(np.zeros((4, 4), np.float32), edges, config)
    with pytest.raises(ValueError, match="J x H x W and finite"):
        random_walk(np.full((2, 4, 4), np.nan, np.float32), edges, config)
    with pytest.raises(ValueError, match="D x h x w and finite"):
        feature_edges(np.zeros((4, 4)), config)
    with pytest.raises(ValueError, match="D x h x w and finite"):
        feature_edges(np.full((2, 4, 4), np.inf), config)
