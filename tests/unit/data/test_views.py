"""Views of an image: sizes, mirror images and their geometry; loading them in batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_trees import write_image
from dist_oaa.config.data import DataConfig
from dist_oaa.config.views import ViewsConfig
from dist_oaa.data.augment import resized_shape
from dist_oaa.data.loader import MEASURE, BatchLoader
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.data.views import ViewLoader, views_of


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(5, 90),
    width=st.integers(5, 90),
    scales=st.lists(st.sampled_from([0.5, 0.75, 1.0, 1.5, 2.0]), min_size=1, max_size=3),
    flip=st.booleans(),
)
def test_each_scale_has_its_size_and_its_mirror_image(height, width, scales, flip):
    image_HW3 = np.random.default_rng(height * width).integers(0, 256, (height, width, 3))
    image_HW3 = image_HW3.astype(np.uint8)
    config, views = DataConfig(size=32), ViewsConfig(scales=scales, flip=flip)
    found = views_of(image_HW3, config, views, 8)
    assert len(found) == views.count
    step = 2 if flip else 1
    for scale, (plain_HW3, geometry_23) in zip(scales, found[::step], strict=True):
        assert plain_HW3.shape[:2] == resized_shape(height, width, config, 8, scale)
        assert geometry_23.tolist() == [[1, 0, 0], [0, 1, 0]]
    if flip:
        for (plain_HW3, _), (mirrored_HW3, geometry_23) in zip(
            found[::2], found[1::2], strict=True
        ):
            assert np.array_equal(mirrored_HW3, plain_HW3[:, ::-1])
            # (u, v) lies at (1 - u, v) of the mirror image.
            assert geometry_23.tolist() == [[-1, 0, 1], [0, 1, 0]]
            assert geometry_23.dtype == np.float32


@pytest.fixture
def image_set(tmp_path) -> ImageSet:
    shapes = [(40, 60), (60, 40), (50, 50), (64, 64)]
    samples = [
        Sample(f"{n}", write_image(tmp_path / f"{n}.png", *shape, seed=n), (n % 2,), None)
        for n, shape in enumerate(shapes)
    ]
    (tmp_path / "3.png").write_bytes(b"")
    return ImageSet(tmp_path, ("a", "b"), tuple(samples), "labels.csv")


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_views(image_set, workers):
    config = DataConfig(size=32, workers=workers)
    loader = ViewLoader(image_set, config, ViewsConfig(scales=[1.0, 0.5], flip=True), 8)
    plan = [np.array([2, 0, 3]), np.array([], dtype=np.int64), np.array([1])]
    looked = list(loader.load_views(plan))
    loader.close()
    assert [len(views) for views in looked] == [4, 4, 4]
    plain = BatchLoader(image_set, DataConfig(size=32, workers=0), 8, seed=1)
    for views, batch in zip(looked, plain.load(plan, MEASURE), strict=True):
        assert torch.equal(views[0].images_B3HW, batch.images_B3HW)
        for view in views:
            assert view.ids == batch.ids
            assert view.bad == batch.bad
            assert torch.equal(view.labels_BC, batch.labels_BC)
        assert torch.equal(views[1].extent_B2, views[0].extent_B2)
        for b, (_, width) in enumerate(views[0].extent_B2.tolist()):
            plain_3HW, mirrored_3HW = views[0].images_B3HW[b], views[1].images_B3HW[b]
            assert torch.equal(mirrored_3HW[..., :width], plain_3HW[..., :width].flip(2))
            assert not mirrored_3HW[..., width:].any(), "padding stays at the right"
        assert (views[2].extent_B2 < views[0].extent_B2).all()
    assert len(looked[0][0].bad) == 1
    assert "3.png" in looked[0][0].bad[0]
