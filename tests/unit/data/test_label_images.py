"""Images with labels: one geometry for both, labels that are moved and never mixed, faults."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_trees import write_image, write_mask
from dist_oaa.config.data import AugmentConfig, DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.segment import SegmentDataConfig
from dist_oaa.data.label_images import (
    Fault,
    LabelledBatch,
    LabelledCollate,
    LabelledImages,
    LabelledSample,
    crop_box,
    prepare_labelled,
    read_label,
    working_shape,
)
from dist_oaa.data.loader import MEASURE, BatchLoader
from dist_oaa.data.sample import ImageSet, Sample

LABELS = np.array([0, 1, 2, 3, 255])
SHAPES = [(40, 60), (90, 40), (50, 50), (33, 80)]


def data(resize: str = "keep", size: int = 32, **augment) -> SegmentDataConfig:
    chosen = {"jitter_probability": 0.0, "scale": [1.0, 1.0]} | augment
    return SegmentDataConfig(resize=resize, size=size, workers=0, augment=AugmentConfig(**chosen))


def painted(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A label image of few large regions, and an image whose red is 50 times the region's number.

    (4 for 255.) So the image itself tells what its label must be, wherever it lies.
    """
    rng = np.random.default_rng(seed)
    number_HW = rng.integers(0, 5, (3, 3)).repeat(-(-height // 3), 0).repeat(-(-width // 3), 1)
    number_HW = number_HW[:height, :width]
    image_HW3 = np.stack([number_HW * 50] * 3, axis=2).astype(np.uint8)
    return image_HW3, LABELS[number_HW].astype(np.uint8)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(30, 90),
    width=st.integers(30, 90),
    seed=st.integers(0, 99),
    resize=st.sampled_from(["keep", "short_side"]),
    crop=st.sampled_from([0, 24, 70]),
)
def test_image_and_labels_stay_together(height, width, seed, resize, crop):
    """Two pixels from every border, where nothing is mixed, the image's colour gives the label."""
    image_HW3, label_HW = painted(height, width, seed)
    config = data(resize, size=48, crop=crop, scale=[0.5, 1.5])
    out_HW3, out_HW = prepare_labelled(image_HW3, label_HW, config, np.random.default_rng(seed))
    assert out_HW3.shape == (*out_HW.shape, 3)
    assert not crop or max(out_HW.shape) <= crop
    assert set(np.unique(out_HW)) <= set(np.unique(label_HW))
    ones = np.ones((5, 5), np.uint8)
    inner_HW = (cv2.erode(out_HW, ones) == cv2.dilate(out_HW, ones))[2:-2, 2:-2]
    out_HW3, out_HW = out_HW3[2:-2, 2:-2], out_HW[2:-2, 2:-2]
    assert inner_HW.any()
    number = np.rint(out_HW3[..., 0][inner_HW] / 50).astype(int)
    np.testing.assert_array_equal(LABELS[number], out_HW[inner_HW])
    assert np.abs(out_HW3[..., 0][inner_HW] - 50.0 * number).max() <= 1


def test_flipping_flips_both():
    image_HW3, label_HW = painted(40, 60, seed=1)
    out_HW3, out_HW = prepare_labelled(image_HW3, label_HW, data(flip=1.0), rng())
    np.testing.assert_array_equal(out_HW3, image_HW3[:, ::-1])
    np.testing.assert_array_equal(out_HW, label_HW[:, ::-1])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("scale", [0.5, 0.7, 1.3, 2.0])
def test_labels_take_the_pixel_under_the_middle_of_theirs(scale):
    label_HW = rng(3).integers(0, 5, (31, 44), dtype=np.uint8)
    image_HW3 = np.zeros((31, 44, 3), np.uint8)
    config = data(scale=[scale, scale], flip=0.0)
    _, out_HW = prepare_labelled(image_HW3, label_HW, config, rng())
    rows, columns = round(31 * scale), round(44 * scale)
    assert out_HW.shape == (rows, columns)
    for i in range(rows):
        for j in range(columns):
            y, x = (i + 0.5) * 31 / rows, (j + 0.5) * 44 / columns
            near = {label_HW[int(v), int(u)] for v in (y, y - 1e-9) for u in (x, x - 1e-9)}
            assert out_HW[i, j] in near, (i, j)


def test_jitter_changes_the_image_alone():
    image_HW3, label_HW = painted(40, 60, seed=1)
    config = data(flip=0.0, jitter_probability=1.0, jitter=[0.5, 0.5, 0.5, 0.0])
    out_HW3, out_HW = prepare_labelled(image_HW3, label_HW, config, rng())
    assert (out_HW3 != image_HW3).any()
    np.testing.assert_array_equal(out_HW, label_HW)


def test_without_randomness_only_the_size_changes():
    image_HW3, label_HW = painted(40, 60)
    config = data("short_side", 20, crop=16, flip=1.0, scale=[0.5, 0.5])
    out_HW3, out_HW = prepare_labelled(image_HW3, label_HW, config, None)
    assert out_HW3.shape == (20, 30, 3)
    np.testing.assert_array_equal(out_HW, label_HW[1::2, 1::2])


def test_working_shapes():
    assert working_shape(40, 60, data()) == (40, 60)
    assert working_shape(40, 60, data(), 0.51) == (20, 31)
    assert working_shape(40, 60, data("short_side", 20)) == (20, 30)
    assert working_shape(1, 1, data(), 0.1) == (1, 1)
    assert working_shape(40, 60, DataConfig(resize="square", size=24), 2.0) == (48, 48)


def test_crops_reach_every_place_and_stay_inside():
    starts = set()
    for seed in range(200):
        rows, columns = crop_box((20, 33), 30, rng(seed))
        assert (rows.start, rows.stop) == (0, 30), "a shorter side is taken whole"
        assert 0 <= columns.start <= 3
        starts.add(columns.start)
    assert starts == {0, 1, 2, 3}


def samples_in(root: Path) -> list[LabelledSample]:
    samples = []
    for n, (height, width) in enumerate(SHAPES):
        path = write_image(root / f"{n}.png", height, width, seed=n)
        label = write_mask(root / "labels" / f"{n}.png", painted(height, width, n)[1])
        samples.append(LabelledSample(f"{n}", path, label))
    return samples


def batches(samples, config, plan, epoch=0) -> list[LabelledBatch]:
    """Through the real loader."""
    image_set = ImageSet(
        Path(), ("a", "b", "c"), tuple(Sample(s.id, s.image, (0,), None) for s in samples), ""
    )
    images = LabelledImages(samples, config, 3, seed=5)
    collate = LabelledCollate(samples, config.augment.crop)
    loader = BatchLoader(image_set, config, 8, 5, images=images, collate=collate)
    return list(loader.load([np.array(part, np.int64) for part in plan], epoch))


def test_random_changes_depend_on_seed_epoch_and_name_alone(tmp_path):
    samples = samples_in(tmp_path)
    config = data(crop=24, scale=[0.5, 1.5], jitter_probability=0.5)
    (together,) = batches(samples, config, [[0, 1, 2, 3]], epoch=3)
    for index, alone in enumerate(batches(samples, config, [[3], [2], [1], [0]], epoch=3)[::-1]):
        assert torch.equal(alone.images_B3HW[0], together.images_B3HW[index])
        assert torch.equal(alone.labels_BHW[0], together.labels_BHW[index])
    (later,) = batches(samples, config, [[0, 1, 2, 3]], epoch=4)
    assert not torch.equal(later.images_B3HW, together.images_B3HW)
    moved = [samples[2], samples[0]]  # another number, the same name
    (other,) = batches(moved, config, [[1]], epoch=3)
    assert torch.equal(other.images_B3HW[0], together.images_B3HW[0])


@pytest.mark.parametrize("crop", [0, 64])
def test_padding_is_ignored_and_beyond_the_extent(tmp_path, crop):
    samples = samples_in(tmp_path)
    config = data(crop=crop)
    (batch,) = batches(samples, config, [[0, 1, 3]])
    assert batch.ids == ["0", "1", "3"]
    side = [max(SHAPES[n][axis] for n in (0, 1, 3)) for axis in (0, 1)]
    assert list(batch.labels_BHW.shape) == [3, *([64, 64] if crop else side)]
    assert batch.images_B3HW.shape[2:] == batch.labels_BHW.shape[1:]
    for b, (rows, columns) in enumerate(batch.extent_B2.tolist()):
        index = batch.index_B[b].item()
        item = LabelledImages(samples, config, 3, seed=5)[index, 0]
        np.testing.assert_array_equal(batch.labels_BHW[b, :rows, :columns], item[2])
        np.testing.assert_array_equal(
            batch.images_B3HW[b, :, :rows, :columns].permute(1, 2, 0), item[1]
        )
        outside = batch.labels_BHW[b].clone()
        outside[:rows, :columns] = 255
        assert (outside == 255).all()


def test_an_empty_batch(tmp_path):
    (empty,) = batches(samples_in(tmp_path), data(crop=64), [[]])
    assert len(empty) == 0
    assert empty.images_B3HW.shape[:2] == (0, 3)
    assert empty.labels_BHW.shape[0] == 0
    assert empty.extent_B2.shape == (0, 2)
    assert len(empty.split(3)) == 1


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
def test_micro_batches_cover_everything_once(tmp_path, parts):
    (batch,) = batches(samples_in(tmp_path), data(crop=64), [[2, 0, 3, 1]])
    batch.bad, batch.wrong = ["one"], ["two"]
    pieces = batch.split(parts)
    assert [i for piece in pieces for i in piece.ids] == batch.ids
    for name in ("index_B", "images_B3HW", "labels_BHW", "extent_B2"):
        joined = torch.cat([getattr(piece, name) for piece in pieces])
        assert torch.equal(joined, getattr(batch, name)), name
    assert [piece.bad for piece in pieces] == [["one"]] + [[]] * (len(pieces) - 1)
    assert [piece.wrong for piece in pieces] == [["two"]] + [[]] * (len(pieces) - 1)


def test_measuring_changes_nothing(tmp_path):
    samples = samples_in(tmp_path)
    images = LabelledImages(samples, data(crop=16, flip=1.0), 3, seed=5)
    index, image_HW3, label_HW = images[1, MEASURE]
    assert index == 1
    np.testing.assert_array_equal(image_HW3, np.asarray(Image.open(samples[1].image)))
    np.testing.assert_array_equal(label_HW, np.asarray(Image.open(samples[1].label)))


def test_faults_are_told_apart(tmp_path):
    samples = samples_in(tmp_path)
    samples[0].image.write_bytes(b"no image")
    samples[1].label.write_bytes(samples[1].label.read_bytes()[:60])
    write_mask(samples[2].label, np.zeros((50, 49)))
    (batch,) = batches(samples, data(), [[0, 1, 2, 3]])
    assert batch.ids == ["3"]
    assert [str(samples[0].image) in s for s in batch.bad] == [True]
    assert [str(samples[n].label) in s for n, s in enumerate(batch.wrong, 1)] == [True, True]
    assert "50 x 49 pixels (height x width), expected those of its image, 50 x 50" in batch.wrong[1]
    assert isinstance(LabelledImages(samples, data(), 3, 0)[0, 0], Fault)


def test_label_images_that_cannot_be_used(tmp_path):
    path = write_mask(tmp_path / "a.png", np.array([[0, 3, 255, 4]]))
    assert read_label(path, (1, 4), 4).tolist() == [[0, 3, 255, 4]]
    with pytest.raises(UserError, match=r"a\.png holds the value 4, expected 0 to 3 .*or 255"):
        read_label(path, (1, 4), 3)
    with pytest.raises(UserError, match=r"label image .*b\.png cannot be read"):
        read_label(tmp_path / "b.png", (1, 4), 3)
    write_image(tmp_path / "c.png")
    with pytest.raises(UserError, match=r"c\.png is a PNG file of mode RGB, expected a palette"):
        read_label(tmp_path / "c.png", (6, 8), 3)
