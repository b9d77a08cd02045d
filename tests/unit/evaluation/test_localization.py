"""Localisation measures: hand-worked lists, and a brute-force count from boxes and classes."""

import numpy as np
import pytest

from dist_oaa.evaluation.boxes import Overlaps
from dist_oaa.evaluation.localization import IOUS, Localization, Thresholds, threshold_grid

GRID = np.array([0.0, 0.5])


def overlap(single: list[float], largest: list[float], best: list[float]) -> Overlaps:
    return Overlaps(np.array(single), np.array(largest), np.array(best))


def both(low: float, high: float) -> Overlaps:
    """The same box in every sense, at either threshold."""
    return overlap([low, high], [low, high], [low, high])


def test_four_images_by_hand():
    counts = Localization(GRID)
    counts.update([0, 1, 2], {0: both(0.2, 0.5)})  # class right; box right at .5 (exactly 0.5)
    counts.update([1, 0, 2], {0: both(0.6, 0.4)})  # class second; box right at 0
    counts.update([2, 1, 0], {2: both(0.7, 0.7)})  # both right everywhere
    counts.update([2, 1, 3], {0: both(0.9, 0.9)})  # class not among them; box right
    at = counts.at(Thresholds.same(0.5))
    assert (at["top1"], at["top5"], at["gt_known"]) == (2 / 4, 2 / 4, 3 / 4)
    at = counts.at(Thresholds.same(0.0))
    assert (at["top1"], at["top5"], at["gt_known"]) == (1 / 4, 2 / 4, 3 / 4)
    assert counts.accuracy() == {"top1": 2 / 4, "top5": 3 / 4}
    assert (counts.images, counts.pairs, counts.unseen) == (4, 4, 0)


def test_max_box_acc_v2_by_hand():
    counts = Localization(GRID)
    # At 0: the largest component fails where the best one meets.
    counts.update([0], {0: overlap([0.1, 0.6], [0.1, 0.6], [0.75, 0.6])})
    counts.update([0], {0: overlap([0.4, 0.3], [0.4, 0.3], [0.4, 0.3])})
    at = counts.at(Thresholds.same(0.0))
    assert at["max_box_acc"] == 0
    by_iou = [at[f"max_box_acc_v2_iou{percent}"] for percent in (30, 50, 70)]
    assert by_iou == [2 / 2, 1 / 2, 1 / 2]
    assert at["max_box_acc_v2"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    best = counts.best()
    assert (best.single, best.largest) == (0.5, 0.5)
    # Equally good: IoU .3 and .5 at both thresholds; the upper one of two is their middle.
    assert best.components == (0.5, 0.5, 0.0)
    assert counts.at(best)["max_box_acc_v2"] == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_the_middle_of_equally_good_thresholds():
    grid = np.arange(10) / 10
    counts = Localization(grid)
    meets = np.where((grid >= 0.2) & (grid <= 0.6), 0.8, 0.0)
    counts.update([0], {0: Overlaps(meets, meets, meets)})
    assert counts.best().single == 0.4


def test_several_classes_in_an_image():
    counts = Localization(GRID)
    counts.update([3, 1, 0], {0: both(0.9, 0.9), 1: both(0.1, 0.1)})
    at = counts.at(Thresholds.same(0.0))
    # Of two pairs one is met; the image is right by its third guess, not by its first.
    assert (at["gt_known"], at["top1"], at["top5"]) == (1 / 2, 0, 1)
    assert counts.accuracy() == {"top1": 0, "top5": 1}


def test_only_five_guesses_count():
    counts = Localization(GRID)
    counts.update([5, 4, 3, 2, 1, 0], {0: both(1, 1)})
    assert counts.at(Thresholds.same(0.0))["top5"] == 0
    assert counts.accuracy()["top5"] == 0


def test_unseen_objects_and_no_images():
    counts = Localization(GRID)
    assert np.isnan(counts.at(Thresholds.same(0.0))["gt_known"])
    counts.update([0], {0: both(0, 0)})
    assert counts.unseen == 1


def test_a_threshold_off_the_grid_is_refused():
    with pytest.raises(ValueError, match="unpack"):
        Localization(GRID).at(Thresholds.same(0.3))


def test_the_grid_has_the_fixed_threshold_once():
    assert threshold_grid(5).tolist() == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert threshold_grid(5, 0.2).tolist() == threshold_grid(5).tolist()
    assert threshold_grid(4, 0.3).tolist() == [0.0, 0.25, 0.3, 0.5, 0.75]


def random_images(rng: np.random.Generator, count: int, grid: np.ndarray) -> list[tuple]:
    """(ranked classes, overlaps) with several true classes here and there."""
    images = []
    for _ in range(count):
        true = rng.choice(8, rng.integers(1, 3), replace=False)
        found = {int(c): Overlaps(*rng.random((3, len(grid)))) for c in true}
        images.append((rng.permutation(8)[:5].tolist(), found))
    return images


def brute_force(images: list[tuple], t: int) -> dict[str, float]:
    """All measures at one threshold by their definitions, image by image."""
    top1 = top5 = right1 = right5 = 0
    known, largest, best = [], [], {iou: [] for iou in IOUS}
    for ranked, found in images:
        top1 += ranked[0] in found and found[ranked[0]].single_T[t] >= 0.5
        top5 += any(c in found and found[c].single_T[t] >= 0.5 for c in ranked)
        right1 += ranked[0] in found
        right5 += any(c in found for c in ranked)
        for each in found.values():
            known.append(each.single_T[t] >= 0.5)
            largest.append(each.largest_T[t] >= 0.5)
            for iou in IOUS:
                best[iou].append(each.best_T[t] >= iou)
    shares = [float(np.mean(best[iou])) for iou in IOUS]
    return {
        "top1": top1 / len(images),
        "top5": top5 / len(images),
        "gt_known": float(np.mean(known)),
        "max_box_acc": float(np.mean(largest)),
        "max_box_acc_v2": sum(shares) / 3,
        "max_box_acc_v2_iou30": shares[0],
        "max_box_acc_v2_iou50": shares[1],
        "max_box_acc_v2_iou70": shares[2],
        "right1": right1 / len(images),
        "right5": right5 / len(images),
    }


@pytest.mark.parametrize("seed", range(4))
def test_against_brute_force_and_in_parts(seed):
    rng = np.random.default_rng(seed)
    grid = threshold_grid(7)
    images = random_images(rng, 31, grid)
    whole, parts = Localization(grid), [Localization(grid) for _ in range(3)]
    for number, (ranked, found) in enumerate(images):
        whole.update(ranked, found)
        parts[number % 3].update(ranked, found)
    assert (whole.counts == sum(part.counts for part in parts)).all()
    expected = [brute_force(images, t) for t in range(len(grid))]
    for t, threshold in enumerate(grid):
        found = whole.at(Thresholds.same(threshold))
        for name, value in found.items():
            assert value == pytest.approx(expected[t][name]), name
        assert whole.accuracy()["top1"] == pytest.approx(expected[t]["right1"])
        assert whole.accuracy()["top5"] == pytest.approx(expected[t]["right5"])
    swept = whole.at(whole.best())
    for name in ("gt_known", "max_box_acc"):
        assert swept[name] == pytest.approx(max(e[name] for e in expected))
    each = [max(e[f"max_box_acc_v2_iou{p}"] for e in expected) for p in (30, 50, 70)]
    assert swept["max_box_acc_v2"] == pytest.approx(sum(each) / 3)
