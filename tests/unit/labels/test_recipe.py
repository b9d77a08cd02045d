"""The pseudo-label recipe: worked pixels, and a loop over pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dist_oaa.config.labels import RecipeConfig
from dist_oaa.labels.recipe import pseudo_label
from dist_oaa.labels.scores import channel_scores

F = np.float32
ALL = RecipeConfig(min_foreground=0)


def naive(classes, maps, saliency, config, ignore):
    """Pixel by pixel in float32; saliency in bytes."""
    height, width = saliency.shape
    stretched = []
    for map_HW in maps:
        low, high = min(map_HW.flat), max(map_HW.flat)
        stretched.append(
            [[(v - low) / (high - low) if high > low else F(0) for v in row] for row in map_HW]
        )
    label = np.zeros((height, width), np.uint8)
    objects = 0
    for y in range(height):
        for x in range(width):
            salient = F(saliency[y, x]) / F(255)
            channels = {0: F(1) - salient}
            for c, attention in zip(classes, stretched, strict=True):
                value = attention[y][x]
                channels[c + 1] = value if value >= F(config.attention_floor) else F(0)
            best = min(channels, key=lambda k: (-channels[k], k))
            if ignore:
                strong = any(a[y][x] > F(config.uncertain_attention) for a in stretched)
                conflict = sum(s > F(config.conflict) for s in channels.values()) > 1
                doubtful = strong or salient >= F(config.uncertain_saliency)
                best = 255 if conflict or (best == 0 and doubtful) else best
            label[y, x] = best
            objects += best not in (0, 255)
    if ignore and objects / (height * width) < config.min_foreground:
        label[:] = 255
    return label


@st.composite
def cases(draw):
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 5)))
    classes = draw(st.permutations(range(4)))[: draw(st.integers(0, 3))]
    # Tenths meet the thresholds 0.3, 0.8, 0.9 exactly; bytes around 32 meet the saliency's.
    tenths = draw(arrays.arrays(np.int64, (len(classes), *shape), elements=st.integers(0, 10)))
    saliency = draw(
        arrays.arrays(
            np.uint8, shape, elements=st.sampled_from([0, 10, 25, 26, 31, 32, 33, 90, 200, 255])
        )
    )
    config = RecipeConfig(
        min_foreground=draw(st.sampled_from([0.0, 0.01, 0.25, 0.5])),
        conflict=draw(st.sampled_from([0.5, 0.9])),
    )
    return classes, (tenths / 10).astype(F), saliency, config


@settings(max_examples=200, deadline=None)
@given(case=cases(), ignore=st.booleans())
def test_equals_a_loop_over_pixels(case, ignore):
    with np.errstate(all="raise"):
        got = pseudo_label(*case, ignore=ignore)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, naive(*case, ignore))


@settings(max_examples=50, deadline=None)
@given(case=cases())
def test_ignoring_changes_no_label_that_it_keeps(case):
    sure, dense = pseudo_label(*case), pseudo_label(*case, ignore=False)
    assert not (dense == 255).any()
    np.testing.assert_array_equal(sure[sure != 255], dense[sure != 255])


def test_each_rule_on_a_pixel_of_its_own():
    # One row; class 4 (palette 5) and class 1 (palette 2). Each map spans 0 to 1 already.
    columns = [
        # saliency, class 4, class 1 -> label, dense label
        (0.00, 0.0, 0.0, 0, 0),  # plain background
        (1.00, 1.0, 0.0, 5, 5),  # plain object
        (1.00, 0.5, 0.7, 2, 2),  # the stronger class wins
        (1.00, 0.2, 0.0, 255, 0),  # below the floor: background, but salient
        (0.04, 0.95, 0.0, 255, 0),  # background .96 and class .95 conflict
        (1.00, 0.95, 1.0, 255, 2),  # two classes conflict
        (0.10, 0.85, 0.0, 255, 0),  # background .9 beats a strong attention: doubtful
        (0.15, 0.5, 0.0, 255, 0),  # background, but salient (.15 > 32/255)
        (0.10, 0.5, 0.3, 0, 0),  # background, not salient, weakly attended
        (1.00, 0.9, 1.0, 2, 2),  # .9 does not exceed the conflict threshold
        (0.10, 0.8, 0.0, 0, 0),  # nor .8 the one of a doubtful background
        (0.75, 0.3, 0.0, 5, 5),  # a score at the floor stays and beats a background of .25
    ]
    table = np.array(columns)
    saliency = table[None, :, 0].astype(F)
    maps = np.stack([table[None, :, 1], table[None, :, 2]]).astype(F)
    label = pseudo_label([4, 1], maps, saliency, ALL)
    np.testing.assert_array_equal(label[0], table[:, 3])
    np.testing.assert_array_equal(pseudo_label([4, 1], maps, saliency, ALL, False)[0], table[:, 4])


def test_the_saliency_threshold_in_bytes_and_in_fractions():
    saliency = np.array([[31, 32, 255]], np.uint8)
    maps = np.array([[[0, 0, 1]]], F)
    for version in (saliency, saliency / 255, (saliency / 255).astype(F)):
        np.testing.assert_array_equal(pseudo_label([0], maps, version, ALL), [[0, 255, 1]])


def test_an_image_with_little_foreground_is_ignored_whole():
    saliency = np.zeros((10, 70), np.uint8)
    maps = np.zeros((1, 10, 70), F)
    saliency[0, :7], maps[0, 0, :7] = 255, 1
    # 7 of 700 pixels are exactly 1 %: kept.
    label = pseudo_label([2], maps, saliency, RecipeConfig())
    assert np.count_nonzero(label == 3) == 7
    assert np.count_nonzero(label == 0) == 693
    saliency[0, 0], maps[0, 0, 0] = 0, 0
    assert (pseudo_label([2], maps, saliency, RecipeConfig()) == 255).all()
    assert (pseudo_label([2], maps, saliency, RecipeConfig(), ignore=False) == 3).sum() == 6


def test_an_empty_map_and_an_image_without_classes():
    saliency = np.array([[0, 255]], np.uint8)
    for maps, classes in ((np.zeros((1, 1, 2), F), [0]), (np.zeros((0, 1, 2), F), [])):
        np.testing.assert_array_equal(pseudo_label(classes, maps, saliency, ALL), [[0, 255]])
        np.testing.assert_array_equal(
            pseudo_label(classes, maps, saliency, ALL, ignore=False), [[0, 0]]
        )
        assert (pseudo_label(classes, maps, saliency, RecipeConfig()) == 255).all()


def test_one_pixel():
    # A single value has no range: it attends to nothing.
    label = pseudo_label([0], np.ones((1, 1, 1), F), np.zeros((1, 1), F), ALL)
    np.testing.assert_array_equal(label, [[0]])


def test_inputs_stay_as_they_were():
    maps, saliency = np.array([[[0, 0.2, 1]]], F), np.array([[0, 0.5, 1]], F)
    copies = maps.copy(), saliency.copy()
    pseudo_label([0], maps, saliency, RecipeConfig())
    np.testing.assert_array_equal(maps, copies[0])
    np.testing.assert_array_equal(saliency, copies[1])


def test_refusals():
    maps, saliency = np.zeros((1, 2, 2), F), np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="one image"):
        pseudo_label([0, 1], maps, saliency, ALL)
    with pytest.raises(ValueError, match="one image"):
        pseudo_label([0], maps, saliency[:1], ALL)
    with pytest.raises(ValueError, match="unique"):
        pseudo_label([1, 1], np.zeros((2, 2, 2), F), saliency, ALL)
    with pytest.raises(ValueError, match="0 to 253"):
        pseudo_label([254], maps, saliency, ALL)
    with pytest.raises(ValueError, match="range 0 to 1"):
        pseudo_label([0], maps, saliency + 200.0, ALL)
    with pytest.raises(ValueError, match="range 0 to 1"):
        pseudo_label([0], maps, saliency * np.nan, ALL)
    with pytest.raises(ValueError, match="finite"):
        pseudo_label([0], maps * np.nan, saliency, ALL)


def test_without_saliency_the_threshold_is_the_backgrounds_score():
    columns = [
        # class 4, class 1 -> label, dense label; threshold .25, margin .1
        (0.0, 0.0, 0, 0),  # nothing attends: background
        (0.15, 0.1, 0, 0),  # .15 does not exceed .25 - .1
        (0.2, 0.0, 255, 0),  # near the threshold: doubtful
        (0.25, 0.0, 255, 0),  # at the threshold is not above it
        (0.26, 0.0, 5, 5),  # below the recipe's floor of .3, which does not count here
        (0.5, 0.6, 2, 2),  # the stronger class wins
        (0.95, 1.0, 255, 2),  # two confident classes
        (1.0, 0.0, 5, 5),  # a sure object
    ]
    table = np.array(columns)
    maps = np.stack([table[None, :, 0], table[None, :, 1]]).astype(F)
    given = {"threshold": 0.25, "margin": 0.1}
    label = pseudo_label([4, 1], maps, None, ALL, **given)
    np.testing.assert_array_equal(label[0], table[:, 2])
    dense = pseudo_label([4, 1], maps, None, ALL, False, **given)
    np.testing.assert_array_equal(dense[0], table[:, 3])


def test_a_high_threshold_is_no_confidence():
    # Background .95 is above the conflict threshold, but it is not a channel that was measured.
    maps = np.array([[[0, 0.5, 1]]], F)
    label = pseudo_label([0], maps, None, ALL, threshold=0.95)
    np.testing.assert_array_equal(label, [[0, 0, 1]])


@settings(max_examples=50, deadline=None)
@given(case=cases(), ignore=st.booleans())
def test_scores_given_as_refined_change_nothing(case, ignore):
    _, maps, saliency, config = case
    scores = channel_scores(maps, saliency, 0.0, config)
    got = pseudo_label(*case, ignore, refined_JHW=scores)
    np.testing.assert_array_equal(got, pseudo_label(*case, ignore))


def test_refined_scores_decide_and_attention_says_what_is_doubtful():
    maps = np.array([[[0, 0.5, 1, 0, 0.1]]], F)
    # Refinement takes the second pixel from the object and gives it the fourth.
    refined = np.array([[[1, 1, 0, 0, 1]], [[0, 0, 1, 1, 0]]], F)
    given = {"threshold": 0.3, "margin": 0.1, "refined_JHW": refined}
    label = pseudo_label([0], maps, None, ALL, **given)
    np.testing.assert_array_equal(label, [[0, 255, 1, 1, 0]])
    dense = pseudo_label([0], maps, None, ALL, False, **given)
    np.testing.assert_array_equal(dense, [[0, 0, 1, 1, 0]])


def test_classes_in_any_order_with_refined_scores():
    maps = np.array([[[0, 1, 0]], [[0, 0, 1]]], F)
    refined = np.array([[[1, 0, 0]], [[0, 1, 0.5]], [[0, 0, 0.5]]], F)
    label = pseudo_label([6, 2], maps, None, ALL, threshold=0.5, refined_JHW=refined)
    # The last pixel is a tie: the lowest class index.
    np.testing.assert_array_equal(label, [[0, 7, 3]])
    with pytest.raises(ValueError, match="refined scores"):
        pseudo_label([6, 2], maps, None, ALL, refined_JHW=refined[:2])
    with pytest.raises(ValueError, match="refined scores"):
        pseudo_label([6, 2], maps, None, ALL, refined_JHW=refined * np.nan)
    with pytest.raises(ValueError, match="threshold is 2"):
        pseudo_label([6, 2], maps, None, ALL, threshold=2)
