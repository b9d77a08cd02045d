"""Pixel-adaptive refinement against a loop over pixels and neighbours."""

import numpy as np
import pytest
import torch

from dist_oaa.config.labels import PamrConfig
from dist_oaa.labels.pamr import pamr


def naive(image, scores, config):
    """The paper's equations, pixel by pixel in float64."""
    _, height, width = image.shape

    def at(values, y, x):
        return values[:, min(max(y, 0), height - 1), min(max(x, 0), width - 1)]

    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    around = [(d * y, d * x) for d in config.dilations for y, x in steps]
    others = [step for step in around if step != (0, 0)]
    weights = np.zeros((height, width, len(others)))
    for y in range(height):
        for x in range(width):
            window = np.stack([at(image, y + v, x + u) for v, u in around])
            spread = window.std(0, ddof=1)
            for n, (v, u) in enumerate(others):
                difference = np.abs(at(image, y + v, x + u) - image[:, y, x])
                weights[y, x, n] = -(difference / (1e-8 + config.sigma * spread)).mean()
            weights[y, x] = np.exp(weights[y, x] - weights[y, x].max())
            weights[y, x] /= weights[y, x].sum()
    for _ in range(config.iterations):
        after = np.zeros_like(scores)
        for y in range(height):
            for x in range(width):
                for weight, (v, u) in zip(weights[y, x], others, strict=True):
                    after[:, y, x] += weight * at(scores, y + v, x + u)
        scores = after
    return scores


@pytest.mark.parametrize(
    ("shape", "dilations", "iterations", "sigma"),
    [((6, 7), [1, 2], 3, 0.1), ((2, 5), [1, 4], 1, 0.5), ((1, 1), [1], 2, 0.1)],
)
def test_equals_a_loop_over_pixels(shape, dilations, iterations, sigma):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (3, *shape)).astype(np.float64)
    scores = rng.random((2, *shape))
    config = PamrConfig(dilations=dilations, iterations=iterations, sigma=sigma)
    got = pamr(torch.from_numpy(image), torch.from_numpy(scores), config)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), naive(image, scores, config), atol=2e-5)


@pytest.mark.parametrize("scale", [1 / 255, 10])
def test_values_stay_in_range_and_the_images_scale_does_not_matter(scale):
    generator = torch.Generator().manual_seed(4)
    image = torch.randint(0, 256, (3, 5, 6), generator=generator).float()
    scores = torch.rand(3, 5, 6, generator=generator)
    config = PamrConfig(iterations=2, dilations=[1, 3])
    got = pamr(image, scores, config)
    for before, after in zip(scores, got, strict=True):
        assert before.min() - 1e-6 <= after.min() <= after.max() <= before.max() + 1e-6
    torch.testing.assert_close(pamr(image * scale, scores, config), got, atol=1e-3, rtol=1e-3)


def test_a_flat_image_smooths_and_constant_channels_stay():
    image = torch.full((3, 9, 9), 40, dtype=torch.uint8)
    scores = torch.zeros(2, 9, 9)
    scores[0], scores[1, 4, 4] = 0.3, 1.0
    got = pamr(image, scores, PamrConfig(iterations=1, dilations=[1]))
    torch.testing.assert_close(got[0], torch.full((9, 9), 0.3))
    wanted = torch.zeros(9, 9)
    wanted[3:6, 3:6] = 1 / 8
    wanted[4, 4] = 0
    torch.testing.assert_close(got[1], wanted)


def test_scores_follow_the_edge_of_the_image():
    image = torch.zeros(3, 24, 24)
    image[:, :, 12:] = 200
    truth = torch.zeros(24, 24)
    truth[:, 12:] = 1
    shifted = torch.roll(truth, 3, dims=1)
    got = pamr(image, shifted[None], PamrConfig(dilations=[1, 2, 4]))[0] > 0.5
    assert ((shifted > 0.5) == truth.bool()).float().mean() < 0.8
    assert (got == truth.bool()).float().mean() > 0.95


def test_the_input_stays_as_it_was_and_no_iteration_changes_nothing():
    scores = torch.rand(2, 4, 4)
    copy = scores.clone()
    image = torch.rand(3, 4, 4)
    assert torch.equal(pamr(image, scores, PamrConfig(iterations=0)), copy)
    pamr(image, scores, PamrConfig())
    assert torch.equal(scores, copy)


def test_refusals():
    with pytest.raises(ValueError, match="do not fit"):
        pamr(torch.zeros(3, 4, 4), torch.zeros(2, 4, 5), PamrConfig())
    with pytest.raises(ValueError, match="do not fit"):
        pamr(torch.zeros(3, 4, 4), torch.zeros(4, 4), PamrConfig())
