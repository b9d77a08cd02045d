"""Pictures of a run: what they hold when masks or early maps are missing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_oaa.data.sample import Sample
from dist_oaa.stages.gallery import Gallery
from dist_oaa.stages.tally import ImageMaps


class Shown:
    """Stands in for the tracker: remembers what is shown."""

    def __init__(self):
        self.seen = []

    def image(self, tag, picture, step):
        self.seen.append((tag, picture.shape, step))


@pytest.fixture
def images(tmp_path):
    def make(name: str, mask: bool = False, value: float = 0.5) -> ImageMaps:
        path = tmp_path / f"{name}.jpg"
        Image.new("RGB", (40, 30), (90, 120, 30)).save(path)
        where = None
        if mask:
            where = tmp_path / f"{name}.png"
            Image.fromarray(np.ones((30, 40), np.uint8), "L").save(where)
        maps = np.full((1, 8, 8), value, np.float32)
        return ImageMaps(Sample(name, path, (0,), where), {"cam": maps, "cumulative": maps})

    return make


@pytest.mark.parametrize("masks", [(False, False), (True, False), (True, True)])
def test_images_with_and_without_masks(tmp_path, images, masks):
    gallery, tracker = Gallery(tmp_path / "run", ("cat",), 1.0), Shown()
    gallery.add(0, 5, [images(f"i{n}", m) for n, m in enumerate(masks)], tracker)
    assert [(tag, step) for tag, _, step in tracker.seen] == [("attention", 5), ("evolution", 5)]
    width = tracker.seen[0][1][1]
    without = Shown()
    gallery.add(1, 6, [images("j")], without)
    assert (width > without.seen[0][1][1] + 100) == any(masks), "the column of the truth"


def test_other_images_than_in_earlier_epochs(tmp_path, images):
    gallery = Gallery(tmp_path / "run", ("cat",), 1.0)
    gallery.add(0, 5, [images("a"), images("b")], Shown())
    gallery.add(1, 9, [images("b"), images("folder_c")], Shown())
    names = sorted(p.name for p in (tmp_path / "run/pictures/maps").iterdir())
    assert names == ["epoch-0000.npz", "epoch-0001.npz"]
    with np.load(tmp_path / "run/pictures/maps/epoch-0001.npz") as kept:
        assert set(kept.files) == {
            f"{i}.{k}" for i in ("b", "folder_c") for k in ("cam", "cumulative")
        }
        assert int(kept["b.cam"][0, 0, 0]) == 128


def test_no_images_no_pictures(tmp_path):
    tracker = Shown()
    Gallery(tmp_path / "run", ("cat",), 1.0).add(0, 1, [], tracker)
    assert tracker.seen == []
    assert not (tmp_path / "run").exists()


def test_few_of_many_epochs_are_drawn(tmp_path, images):
    gallery = Gallery(Path(tmp_path) / "run", ("cat",), 1.0)
    for epoch in range(9):
        gallery.add(epoch, epoch, [images("a")], Shown())
    assert gallery._epochs(8) == [0, 2, 4, 6, 8]
    assert gallery._epochs(1) == [0, 1]
