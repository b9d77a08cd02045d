"""The dense CRF against mean field written out on a small image, and what it does to noise."""

import numpy as np
import pytest

from dist_oaa.config.labels import CrfConfig
from dist_oaa.labels.crf import crf_on_present, dense_crf

RNG = np.random.default_rng(3)
APART = CrfConfig(bilateral_compat=0, gaussian_compat=0)


def naive_mean_field(image, scores, config):
    """Kraehenbuehl and Koltun's algorithm with the kernels as full matrices in float64."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    place = np.stack([y, x], -1).reshape(-1, 2).astype(float)
    colour = image.reshape(-1, 3).astype(float)

    def kernel(features):
        matrix = np.exp(-((features[:, None] - features[None]) ** 2).sum(-1) / 2)
        norm = 1 / np.sqrt(matrix.sum(1))
        return norm[:, None] * matrix * norm[None]

    smooth = kernel(place / config.gaussian_xy)
    bilateral = kernel(
        np.concatenate([place / config.bilateral_xy, colour / config.bilateral_rgb], 1)
    )
    logits = np.log(scores / scores.sum(0)).reshape(len(scores), -1)
    q = np.exp(logits) / np.exp(logits).sum(0)
    for _ in range(config.iterations):
        messages = config.gaussian_compat * q @ smooth + config.bilateral_compat * q @ bilateral
        q = np.exp(logits + messages)
        q /= q.sum(0)
    return q.reshape(scores.shape)


@pytest.mark.parametrize("iterations", [2, 5])
def test_close_to_mean_field_with_full_kernels(iterations):
    # The lattice that filters in high dimensions is an approximation: hence the tolerance.
    image = np.zeros((10, 12, 3), np.uint8)
    image[:, 6:] = 60
    scores = RNG.uniform(0.2, 0.8, (3, 10, 12)).astype(np.float32)
    scores[0, :, :6] += 0.2
    config = CrfConfig(bilateral_xy=4, bilateral_rgb=20, iterations=iterations)
    got, wanted = dense_crf(image, scores, config), naive_mean_field(image, scores, config)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.sum(0), 1, atol=1e-5)
    change = np.abs(scores / scores.sum(0) - wanted).mean()
    assert np.abs(got - wanted).mean() < 0.2 * change
    assert (got.argmax(0) == wanted.argmax(0)).mean() > 0.9


def test_without_kernels_it_gives_back_the_shares():
    image = RNG.integers(0, 256, (4, 5, 3), np.uint8)
    scores = RNG.uniform(0.1, 3, (3, 4, 5)).astype(np.float32)
    got = dense_crf(image, scores, APART)
    np.testing.assert_allclose(got, scores / scores.sum(0), rtol=1e-4)


def test_softness_mixes_with_equal_shares():
    image = np.zeros((1, 2, 3), np.uint8)
    scores = np.array([[[0.9, 0]], [[0.1, 0]]], np.float32)
    soft = CrfConfig(bilateral_compat=0, gaussian_compat=0, softness=0.4)
    got = dense_crf(image, scores, soft)
    np.testing.assert_allclose(got[:, 0, 0], [0.74, 0.26], rtol=1e-4)
    # A pixel without any score is believed to be anything.
    np.testing.assert_allclose(got[:, 0, 1], [0.5, 0.5], rtol=1e-4)
    wholly = CrfConfig(bilateral_compat=0, gaussian_compat=0, softness=1)
    np.testing.assert_allclose(dense_crf(image, scores, wholly), 0.5, rtol=1e-4)


def test_noisy_scores_snap_to_the_edge_of_the_image():
    image = np.full((40, 50, 3), (30, 90, 40), np.uint8)
    image[10:30, 15:40] = (210, 200, 60)
    truth = np.zeros((40, 50), int)
    truth[10:30, 15:40] = 1
    # The object's scores lie four pixels off, and a fifth of the pixels is wrong.
    shifted = np.roll(truth, 4, axis=1)
    flipped = RNG.random(truth.shape) < 0.2
    one = np.where(shifted ^ flipped, 0.65, 0.35)
    scores = np.stack([1 - one, one]).astype(np.float32)
    before, after = scores.argmax(0), dense_crf(image, scores, CrfConfig()).argmax(0)
    assert (before == truth).mean() < 0.8
    assert (after == truth).mean() > 0.99


def test_the_crf_on_the_classes_of_a_prediction():
    image = RNG.integers(0, 256, (12, 14, 3), np.uint8)
    probabilities = np.full((6, 12, 14), 0.01, np.float32)
    probabilities[0], probabilities[4, :, 7:], probabilities[2] = 0.5, 0.8, 0.3
    label = crf_on_present(image, probabilities, CrfConfig())
    assert label.dtype == np.uint8
    assert set(np.unique(label)) <= {0, 4}
    # Channel 2 wins nowhere: it is as if it were not there.
    chosen = dense_crf(image, probabilities[[0, 4]], CrfConfig()).argmax(0)
    np.testing.assert_array_equal(label, np.array([0, 4])[chosen])
    empty = np.zeros((3, 12, 14), np.float32)
    empty[0] = 1
    assert (crf_on_present(image, empty, CrfConfig()) == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2)])
def test_tiny_images_and_a_single_channel(shape):
    image = RNG.integers(0, 256, (*shape, 3), np.uint8)
    assert (dense_crf(image, np.ones((1, *shape)), CrfConfig()) == 1).all()
    two = dense_crf(image, np.stack([np.ones(shape), np.zeros(shape)]), CrfConfig())
    np.testing.assert_allclose(two[0], 1, atol=1e-3)


def test_inputs_stay_as_they_were_and_may_be_views():
    wide = RNG.integers(0, 256, (6, 16, 3), np.uint8)
    scores = RNG.random((2, 6, 8)).astype(np.float32)
    copies = wide.copy(), scores.copy()
    strided = dense_crf(wide[:, ::2], scores, CrfConfig())
    np.testing.assert_array_equal(strided, dense_crf(wide[:, ::2].copy(), scores, CrfConfig()))
    np.testing.assert_array_equal(wide, copies[0])
    np.testing.assert_array_equal(scores, copies[1])


def test_refusals():
    image, scores = np.zeros((3, 4, 3), np.uint8), np.ones((2, 3, 4), np.float32)
    for wrong in (scores[:, :2], scores[0], scores[:0]):
        with pytest.raises(ValueError, match="do not fit"):
            dense_crf(image, wrong, CrfConfig())
    with pytest.raises(ValueError, match="uint8"):
        dense_crf(image.astype(np.float32), scores, CrfConfig())
    for bad in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match="0 or more"):
            dense_crf(image, scores * bad, CrfConfig())
    with pytest.raises(ValueError, match="palette"):
        crf_on_present(image, np.ones((256, 3, 4), np.float32), CrfConfig())
