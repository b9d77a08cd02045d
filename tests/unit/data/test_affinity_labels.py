"""Labels of cells against a loop over pixels; two folders; every fault of a label image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dist_oaa.config.data import AugmentConfig, DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.affinity_labels import (
    UNKNOWN,
    CollateCells,
    ConfidentLabels,
    LabelledCells,
    cell_labels,
)
from dist_oaa.data.geometry import HORIZONTAL_FLIP_23, IDENTITY_23, crop_23, then
from dist_oaa.data.loader import MEASURE
from dist_oaa.data.sample import ImageSet, Sample

STILL = AugmentConfig(flip=0, jitter_probability=0)


def naive_cells(label_HW: np.ndarray, stride: int) -> np.ndarray:
    """The label that covers more than half of a cell."""
    rows, columns = (side // stride for side in label_HW.shape)
    out = np.full((rows, columns), UNKNOWN, np.uint8)
    for y in range(rows):
        for x in range(columns):
            part = label_HW[y * stride : (y + 1) * stride, x * stride : (x + 1) * stride]
            values, counts = np.unique(part, return_counts=True)
            if counts.max() > part.size / 2:
                out[y, x] = values[counts.argmax()]
    return out


@pytest.fixture
def label_HW() -> np.ndarray:
    rng = np.random.default_rng(2)
    coarse = rng.choice(np.array([0, 1, 4, UNKNOWN], np.uint8), (8, 6))
    return np.repeat(np.repeat(coarse, 3, 0), 3, 1)  # cells of 4 pixels do not fall on its edges


def test_cells_of_the_whole_image(label_HW):
    found = cell_labels(label_HW, IDENTITY_23.astype(np.float32), label_HW.shape, 2)
    np.testing.assert_array_equal(found, naive_cells(label_HW, 2))
    assert len(np.unique(found)) == 4


def test_cells_of_a_flipped_crop(label_HW):
    cut = crop_23(6 / 18, 4 / 24, 12 / 18, 16 / 24)  # columns 6 to 17, rows 4 to 19
    geometry = then(cut, HORIZONTAL_FLIP_23).astype(np.float32)
    found = cell_labels(label_HW, geometry, (16, 12), 4)
    np.testing.assert_array_equal(found, naive_cells(label_HW[4:20, 6:18][:, ::-1], 4))


def test_cells_of_an_enlarged_image(label_HW):
    found = cell_labels(label_HW, IDENTITY_23, (48, 36), 6)
    np.testing.assert_array_equal(found, naive_cells(label_HW, 3))


def write(folder: Path, name: str, values) -> None:
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def test_two_folders(tmp_path):
    write(tmp_path / "objects", "a", [[2, 2, 0, 0, 255, 255]])
    write(tmp_path / "background", "a", [[1, 0, 0, 255, 0, 2]])
    both = ConfidentLabels(tmp_path / "objects", tmp_path / "background", 3)
    sample = Sample("a", tmp_path / "a.jpg", (1,), None)
    # An object; a contradiction; background; neither; background; neither.
    assert both.read(sample, (1, 6)).tolist() == [[2, 255, 0, 255, 0, 255]]
    one = ConfidentLabels(tmp_path / "objects", None, 3)
    assert one.read(sample, (1, 6)).tolist() == [[2, 2, 0, 0, 255, 255]]


@pytest.fixture
def images(tmp_path) -> ImageSet:
    """Two images, 32 x 48 and 48 x 32 (height, width); with labels of two classes."""
    samples = []
    for name, shape in (("sub/a", (32, 48)), ("b", (48, 32))):
        write(tmp_path / "images", name, np.full((*shape, 3), 90))
        label = np.zeros(shape)
        label[:16, :16] = 2
        write(tmp_path / "cells", name, label)
        samples.append(Sample(name, tmp_path / "images" / f"{name}.png", (1,), None))
    return ImageSet(tmp_path, ("x", "y"), tuple(samples), "nowhere")


def dataset(images: ImageSet, **changes) -> LabelledCells:
    config = DataConfig(size=32, augment=AugmentConfig(**changes) if changes else STILL)
    labels = ConfidentLabels(images.root / "cells", None, 2)
    return LabelledCells(images, labels, config, multiple=16, stride=8, seed=1)


def test_batch(images):
    items = [dataset(images)[0, MEASURE], dataset(images)[1, MEASURE]]
    batch = CollateCells(images, 8)(items)
    assert batch.images_B3HW.shape == (2, 3, 48, 48)
    assert batch.cells_Bhw.shape == (2, 6, 6)
    expected = torch.full((2, 6, 6), UNKNOWN, dtype=torch.uint8)
    expected[0, :4, :], expected[1, :, :4] = 0, 0
    expected[:, :2, :2] = 2
    assert torch.equal(batch.cells_Bhw, expected)
    assert (batch.ids, batch.bad, batch.wrong) == (["sub/a", "b"], [], [])
    first, second = batch.split(2)
    assert (first.ids, second.ids) == (["sub/a"], ["b"])
    assert torch.equal(second.cells_Bhw, expected[1:])
    (empty,) = CollateCells(images, 8)([]).split(3)
    assert empty.cells_Bhw.shape == (0, 0, 0)


def test_labels_follow_the_flip_of_their_image(images):
    flipped = dataset(images, flip=1, jitter_probability=0)[0, 3]
    assert (flipped[3][:2, 4:] == 2).all()
    assert np.count_nonzero(flipped[3]) == 4


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.zeros((32, 47)), r"b\.png has 32 x 47 pixels .*48 x 32"),
        (np.full((48, 32), 3), r"b\.png holds the value 3, expected 0 to 2"),
        (None, r"b\.png cannot be read"),
    ],
)
def test_wrong_labels_are_told_apart_from_bad_images(images, values, sentence):
    if values is None:
        (images.root / "cells" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nnot at all")
    else:
        write(images.root / "cells", "b", values)
    images.samples[0].path.write_bytes(b"no image")
    items = [dataset(images)[0, 0], dataset(images)[1, 0]]
    batch = CollateCells(images, 8)(items)
    assert len(batch) == 0
    assert len(batch.bad) == len(batch.wrong) == 1
    assert str(images.samples[0].path) in batch.bad[0]
    with pytest.raises(UserError, match=sentence):
        raise UserError(batch.wrong[0])


def test_missing_label_is_found_at_once(images):
    labels = ConfidentLabels(images.root / "cells", None, 2)
    labels.check(images.samples)
    (images.root / "cells" / "sub" / "a.png").unlink()
    with pytest.raises(UserError, match=r"cells/sub/a\.png is missing"):
        labels.check(images.samples)
