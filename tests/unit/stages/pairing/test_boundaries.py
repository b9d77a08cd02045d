"""Boundaries as drawn, against a loop over neighbours."""

import numpy as np

from dist_oaa.stages.pairing.pictures import boundaries


def test_boundaries_follow_the_loop():
    rng = np.random.default_rng(0)
    features_Dhw = rng.normal(size=(5, 4, 3)).astype(np.float32)
    found_hw = boundaries(features_Dhw)
    for y in range(4):
        for x in range(3):
            neighbours = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [(a, b) for a, b in neighbours if 0 <= a < 4 and 0 <= b < 3]
            apart = [
                np.abs(features_Dhw[:, y, x] - features_Dhw[:, a, b]).mean() for a, b in inside
            ]
            np.testing.assert_allclose(found_hw[y, x], 1 - np.mean(np.exp(-np.array(apart))), 1e-5)


def test_one_cell_has_no_boundary():
    assert boundaries(np.ones((2, 1, 1), np.float32)).tolist() == [[0.0]]
