"""The whole way of one image, and that it is made of the parts, in the order asked for."""

import numpy as np
import pytest
import torch

from dist_oaa.config.labels import (
    BackgroundConfig,
    LabelsConfig,
    PamrConfig,
    RandomWalkConfig,
    RecipeConfig,
)
from dist_oaa.labels.crf import dense_crf
from dist_oaa.labels.label_image import label_both, label_image, refine
from dist_oaa.labels.pamr import pamr
from dist_oaa.labels.random_walk import colour_edges, feature_edges, random_walk
from dist_oaa.labels.recipe import pseudo_label
from dist_oaa.labels.scores import channel_scores

RNG = np.random.default_rng(11)
IMAGE = np.full((30, 40, 3), (40, 120, 50), np.uint8)
IMAGE[8:22, 10:30] = (220, 60, 40)
IMAGE[8:22, 24:30] = (30, 40, 200)
TRUTH = np.zeros((30, 40), np.uint8)
TRUTH[8:22, 10:24], TRUTH[8:22, 24:30] = 8, 3
Y, X = np.mgrid[:30, :40]
MAPS = np.stack(
    [
        np.exp(-((Y - 15) ** 2 + (X - 15) ** 2) / 40),
        np.exp(-((Y - 15) ** 2 + (X - 27) ** 2) / 20),
    ]
).astype(np.float32)
CLASSES = [7, 2]
PAMR = PamrConfig(dilations=[1, 2])


@pytest.mark.parametrize("saliency", [None, np.where(TRUTH > 0, 230, 5).astype(np.uint8)])
def test_without_refinement_it_is_the_recipe(saliency):
    config = LabelsConfig(background=BackgroundConfig(margin=0.2))
    sure, dense = label_both(IMAGE, CLASSES, MAPS, saliency, config, 0.4)
    for label, ignore in ((sure, True), (dense, False)):
        wanted = pseudo_label(
            CLASSES, MAPS, saliency, config.recipe, ignore, threshold=0.4, margin=0.2
        )
        np.testing.assert_array_equal(label, wanted)
    np.testing.assert_array_equal(label_image(IMAGE, CLASSES, MAPS, saliency, config, 0.4), sure)
    assert sure.dtype == dense.dtype == np.uint8
    assert set(np.unique(sure)) == {0, 3, 8, 255}
    assert set(np.unique(dense)) == {0, 3, 8}


def test_refinements_are_applied_in_the_order_asked_for():
    scores = channel_scores(MAPS, None, 0.4, RecipeConfig())
    image_3HW = torch.from_numpy(IMAGE).permute(2, 0, 1)
    config = LabelsConfig(refine=["pamr", "random_walk", "crf"], pamr=PAMR)
    wanted = pamr(image_3HW, torch.from_numpy(scores), PAMR).numpy()
    wanted = random_walk(wanted, colour_edges(IMAGE, config.random_walk), config.random_walk)
    wanted = dense_crf(IMAGE, wanted, config.crf)
    np.testing.assert_array_equal(refine(IMAGE, scores, config), wanted)
    other = LabelsConfig(refine=["crf", "random_walk", "pamr"], pamr=PAMR)
    assert np.abs(refine(IMAGE, scores, other) - wanted).max() > 0.01


@pytest.mark.parametrize("name", ["crf", "pamr", "random_walk"])
def test_each_refinement_brings_the_label_nearer_to_the_truth(name):
    def wrong(config):
        _, dense = label_both(IMAGE, CLASSES, MAPS, None, config, 0.4)
        return (dense != TRUTH).mean()

    plain = wrong(LabelsConfig())
    assert wrong(LabelsConfig(refine=[name], pamr=PAMR)) < 0.8 * plain


def test_a_walk_on_features_needs_them():
    walk = RandomWalkConfig(affinity="learned", checkpoint="x", steps=20, radius=2)
    config = LabelsConfig(refine=["random_walk"], random_walk=walk)
    scores = channel_scores(MAPS, None, 0.4, RecipeConfig())
    with pytest.raises(ValueError, match=r"labels.random_walk.affinity learned needs the features"):
        refine(IMAGE, scores, config)
    features = RNG.normal(size=(4, 6, 8))
    np.testing.assert_array_equal(
        refine(IMAGE, scores, config, features),
        random_walk(scores, feature_edges(features, walk), walk),
    )


@pytest.mark.parametrize("refined", [[], ["crf"], ["pamr"], ["random_walk"]])
def test_empty_attention_and_an_image_without_classes(refined):
    config = LabelsConfig(refine=refined, pamr=PAMR)
    for classes, maps in ((CLASSES, np.zeros_like(MAPS)), ([], MAPS[:0])):
        sure, dense = label_both(IMAGE, classes, maps, None, config, 0.4)
        assert (sure == 255).all()
        assert (dense == 0).all()
