"""The sweep's objectives against their definitions, and its choice on drawn scenes."""

import cv2
import numpy as np
import pytest

from dist_oaa.config.labels import BackgroundConfig
from dist_oaa.labels.background import (
    ColourAgreement,
    ThresholdSweep,
    attention_separation,
    colour_separation,
    edge_alignment,
)

RNG = np.random.default_rng(5)
IMAGE = RNG.integers(0, 256, (9, 11, 3), np.uint8)
LAB = cv2.cvtColor(IMAGE.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float64)
THRESHOLDS = np.arange(8) / 8
ATTENTION = RNG.random((9, 11)).astype(np.float32)
BINS = (ATTENTION[..., None] > THRESHOLDS.astype(np.float32)).sum(-1)


def test_colour_separation_by_its_definition():
    got = colour_separation(IMAGE, BINS, THRESHOLDS)
    pixels = LAB.reshape(-1, 3)
    variance = ((pixels - pixels.mean(0)) ** 2).sum(1).mean()
    for threshold, value in zip(THRESHOLDS, got, strict=True):
        inside = (np.float32(threshold) < ATTENTION).ravel()
        wanted = 0.0
        if 0 < inside.sum() < inside.size:
            apart = pixels[inside].mean(0) - pixels[~inside].mean(0)
            wanted = inside.mean() * (~inside).mean() * (apart**2).sum() / variance
        assert value == pytest.approx(wanted, abs=1e-9)


def test_colour_agreement_is_the_best_mean_share_over_the_images():
    shares = []
    whole = ColourAgreement(8)
    for seed in range(3):
        random = np.random.default_rng(seed)
        image_HW3 = random.integers(0, 256, (9, 11, 3), np.uint8)
        maps_KHW = random.random((2, 9, 11)).astype(np.float32)
        whole.update(image_HW3, maps_KHW)
        low, high = (f(maps_KHW, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
        strongest_HW = ((maps_KHW - low) / (high - low)).max(0)
        bins_HW = (strongest_HW[..., None] > THRESHOLDS.astype(np.float32)).sum(-1)
        shares.append(colour_separation(image_HW3, bins_HW, THRESHOLDS))
    assert whole.result() == pytest.approx(np.mean(shares, axis=0).max(), abs=1e-6)
    assert np.isnan(ColourAgreement(8).result())


def test_colour_agreement_prefers_the_map_that_covers_the_object():
    image_HW3 = np.full((300, 400, 3), (40, 120, 60), np.uint8)
    image_HW3[75:225, 100:300] = (200, 60, 40)
    found = {}
    for name, rows, columns in (("whole", (5, 15), (5, 15)), ("part", (5, 9), (5, 9))):
        map_SS = np.zeros((20, 20), np.float32)
        map_SS[slice(*rows), slice(*columns)] = 1
        agreement = ColourAgreement(10)
        agreement.update(image_HW3, map_SS[None])
        found[name] = agreement.result()
    assert found["whole"] > 0.9
    assert found["part"] < 0.4


def test_edge_alignment_by_its_definition():
    got = edge_alignment(IMAGE, BINS, THRESHOLDS)
    for threshold, value in zip(THRESHOLDS, got, strict=True):
        inside = np.float32(threshold) < ATTENTION
        outline, everywhere = [], []
        for y in range(9):
            for x in range(11):
                for v, u in ((y + 1, x), (y, x + 1)):
                    if v < 9 and u < 11:
                        step = np.linalg.norm(LAB[v, u] - LAB[y, x])
                        everywhere.append(step)
                        if inside[v, u] != inside[y, x]:
                            outline.append(step)
        wanted = np.mean(outline) / np.mean(everywhere) if outline else 0
        assert value == pytest.approx(wanted, abs=1e-5)


def test_attention_separation_by_its_definition():
    got = attention_separation(IMAGE, BINS, THRESHOLDS)
    values = BINS.ravel() / 8
    for i, value in enumerate(got):
        inside = BINS.ravel() > i
        wanted = 0.0
        if 0 < inside.sum() < inside.size:
            apart = values[inside].mean() - values[~inside].mean()
            wanted = inside.mean() * (~inside).mean() * apart**2
        assert value == pytest.approx(wanted, abs=1e-9)


def scene(seed, edge):
    """A disc of its own colour; the attention falls from its middle and is `edge` at its rim."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:60, :80]
    centre, radius = rng.uniform((22, 25), (38, 55)), rng.uniform(10, 16)
    distance = np.hypot(y - centre[0], x - centre[1])
    image = np.where((distance < radius)[..., None], (200, 60, 40), (60, 140, 70))
    image = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    fall = np.maximum(0, 1 - (1 - edge) * distance / radius)
    return image, fall[None].astype(np.float32)


@pytest.mark.parametrize("edge", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("objective", ["colour", "edges"])
def test_the_threshold_lies_at_the_objects_rim(edge, objective):
    sweep = ThresholdSweep(BackgroundConfig(objective=objective))
    for seed in range(4):
        sweep.update(*scene(seed, edge))
    choice = sweep.result()
    assert choice.threshold == pytest.approx(edge, abs=0.06)
    assert choice.images == 4
    assert len(choice.objective_T) == len(choice.thresholds_T) == 50


def test_counts_add_up_over_processes_in_any_order():
    scenes = [scene(seed, 0.4) for seed in range(5)]
    whole = ThresholdSweep(BackgroundConfig())
    parts = [ThresholdSweep(BackgroundConfig()) for _ in range(2)]
    for i, one in enumerate(scenes):
        whole.update(*one)
        parts[i % 2].update(*one)
    backwards = ThresholdSweep(BackgroundConfig())
    for one in reversed(scenes):
        backwards.update(*one)
    parts[0].counts += parts[1].counts
    np.testing.assert_array_equal(parts[0].counts, whole.counts)
    np.testing.assert_array_equal(backwards.counts, whole.counts)
    assert parts[0].result().threshold == whole.result().threshold


def test_every_image_has_the_same_say():
    # Attention on faint objects counts as much as on garish ones.
    faint = scene(0, 0.4)
    faint = (faint[0] // 8 + 100, faint[1])
    sweep = ThresholdSweep(BackgroundConfig())
    sweep.update(*scene(0, 0.4))
    first = sweep.counts[:-1].max()
    sweep.update(*faint)
    assert sweep.counts[:-1].max() == pytest.approx(2 * first, rel=0.02)


def test_images_that_say_nothing_do_not_count():
    sweep = ThresholdSweep(BackgroundConfig(threshold=0.35))
    image, maps = scene(1, 0.4)
    sweep.update(image, np.zeros_like(maps))
    sweep.update(image, np.zeros((0, *image.shape[:2]), np.float32))
    sweep.update(np.full_like(image, 9), maps)
    choice = sweep.result()
    assert (choice.images, choice.threshold) == (0, 0.35)
    with pytest.raises(ValueError, match="do not fit"):
        sweep.update(image[1:], maps)
    with pytest.raises(ValueError, match="finite"):
        sweep.update(image, maps * np.nan)


def test_the_strongest_class_of_a_pixel_counts():
    image, first = scene(2, 0.4)
    second = np.roll(first, 20, axis=2)
    one, two = ThresholdSweep(BackgroundConfig()), ThresholdSweep(BackgroundConfig())
    # Both span 0 to 1 already; maps of another range are stretched to it.
    one.update(image, np.maximum(first, second))
    two.update(image, np.concatenate([3 * first + 1, second]))
    np.testing.assert_allclose(one.counts, two.counts, rtol=0.02)
    assert one.result().threshold == two.result().threshold
