"""Measuring while training: which images, when, and figures against a count by hand."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from dist_oaa.config.errors import UserError
from dist_oaa.config.segment import SegmentConfig, ValidationConfig
from dist_oaa.config.segmentation import SegmentationConfig
from dist_oaa.data.images import read_mask
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.evaluation.segmentation import SegmentationResult
from dist_oaa.models.segmentation.build import build_segmenter
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.plan import Plan, Position
from dist_oaa.stages.segmenting.epoch_end import Validation
from dist_oaa.stages.segmenting.report import iou_table
from dist_oaa.stages.tally import gallery_images

WORLD = World(0, 1, 0, torch.device("cpu"))
PLAN = Plan(steps_per_epoch=1, total_steps=3, micro_batches=1)
NAMES = ("dark", "light")


@pytest.fixture(scope="module")
def network():
    """Sees nothing: what it predicts is set by its last biases."""
    config = SegmentationConfig(
        backbone="test_efficientnet", weights="none", output_stride=16, head_channels=8
    )
    model = build_segmenter(config, 2, seed=0)[0]
    last = [layer for layer in model.head.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    return model


@pytest.fixture
def image_set(tmp_path) -> ImageSet:
    """Three images with masks of 255, 0, 1 and 2, and one without."""
    samples = []
    for n in range(4):
        path, mask = tmp_path / f"{n}.jpg", tmp_path / f"{n}.png"
        Image.fromarray(np.full((20, 30 + n, 3), 60 * n, np.uint8)).save(path)
        label_HW = np.full((20, 30 + n), 255, np.uint8)
        label_HW[:10] = 0
        label_HW[:5] = min(n, 2)
        Image.fromarray(label_HW).save(mask)
        samples.append(Sample(f"{n}", path, (0,), mask if n < 3 else None))
    return ImageSet(tmp_path, NAMES, tuple(samples), "labels.csv")


NO_IMAGES = ImageSet(Path(), NAMES, (), "labels.csv")


def validation(network, image_set, tmp_path, trained_on=None, **settings) -> Validation:
    config = SegmentConfig(
        run_dir=str(tmp_path / "run"), evaluate=ValidationConfig(**{"gallery": 0} | settings)
    )
    trained_on = trained_on or dataclasses.replace(NO_IMAGES, root=tmp_path)
    return Validation(config, WORLD, image_set, trained_on, PLAN, network)


def test_figures_by_hand(network, image_set, tmp_path):
    found = validation(network, image_set, tmp_path, images=0)(Position(epoch=2))
    # Everything is predicted as class 1 ("dark"). Truth, in rows of 30, 31 and 32 pixels:
    background = 10 * 30 + 5 * 31 + 5 * 32
    dark, light = 5 * 31, 5 * 32
    total = background + dark + light
    assert found["segmentation/miou"] == pytest.approx(dark / total / 3)
    assert found["segmentation/pixel_accuracy"] == pytest.approx(dark / total)
    assert found["per_class/segmentation/iou/dark"] == pytest.approx(dark / total)
    assert found["per_class/segmentation/iou/light"] == 0
    assert network.training


def test_when_it_measures(network, image_set, tmp_path):
    every = validation(network, image_set, tmp_path, every_epochs=2)
    assert [bool(every(Position(epoch=e))) for e in range(3)] == [False, True, True]
    last = validation(network, image_set, tmp_path, every_epochs=0)
    assert [bool(last(Position(epoch=e))) for e in range(3)] == [False, False, True]
    assert validation(network, None, tmp_path)(Position(epoch=2)) == {}


def test_fewer_images_before_the_end(network, image_set, tmp_path):
    measure = validation(network, image_set, tmp_path, images=1)
    first, last = measure(Position(epoch=0)), measure(Position(epoch=2))
    assert first != last
    assert last == validation(network, image_set, tmp_path, images=0)(Position(epoch=2))


def test_images_without_masks_are_drawn_and_not_counted(network, image_set, tmp_path):
    bare = dataclasses.replace(
        image_set, samples=tuple(dataclasses.replace(s, mask=None) for s in image_set.samples)
    )
    measure = validation(network, bare, tmp_path, gallery=2)
    pictures = []

    class Recorder:
        def image(self, tag: str, page: np.ndarray, step: int) -> None:
            pictures.append((tag, page.shape, step))

    measure.tracker = Recorder()
    assert measure(Position(epoch=2, step=7)) == {}
    assert [(tag, step) for tag, _, step in pictures] == [("predictions", 7)]
    assert (tmp_path / "run" / "pictures" / "predictions.png").exists()


def test_a_few_training_images_are_predicted_in_the_end(network, image_set, tmp_path):
    measure = validation(network, None, tmp_path, trained_on=image_set, gallery=2)
    folder = tmp_path / "run" / "pictures" / "predictions"
    assert measure(Position(epoch=1)) == {}
    assert not folder.exists()
    measure(Position(epoch=2))
    paths = sorted(folder.glob("*.png"))
    # The images that classify draws: of those with masks, the first by the hash of their names.
    assert [int(path.stem) for path in paths] == gallery_images(image_set, 2).tolist()
    for path in paths:
        label_HW = read_mask(path)
        assert label_HW.shape == (20, 30 + int(path.stem))
        assert (label_HW == 1).all()  # the network says "dark" of everything


def test_bad_images_follow_the_policy(network, image_set, tmp_path):
    image_set.samples[1].path.write_bytes(b"no image")
    measure = validation(network, image_set, tmp_path)
    with pytest.raises(UserError, match=r"1\.jpg cannot be read.*data\.on_bad_image"):
        measure(Position(epoch=2))
    measure.config.data.on_bad_image = "skip"
    at = Position(epoch=2)
    assert measure(at)["segmentation/miou"] == 0
    assert len(at.skipped) == 1


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (np.zeros((20, 29), np.uint8), r"0\.png has 20 x 29 pixels .*, expected .* 20 x 30"),
        (np.full((20, 30), 7, np.uint8), r"0\.png holds the value 7, expected 0 to 2"),
    ],
)
def test_masks_that_cannot_be_used(network, image_set, tmp_path, mask, match):
    Image.fromarray(mask).save(Path(image_set.samples[0].mask))
    with pytest.raises(UserError, match=match):
        validation(network, image_set, tmp_path)(Position(epoch=2))


def test_the_table_fits_80_columns():
    names = tuple(f"a rather long class name {n}" for n in range(20))
    result = SegmentationResult(0.75, {0: 0.5, 3: 1.0}, 0.0, {}, 0.0, 0.0)
    text = io.StringIO()
    Console(width=120, file=text).print(iou_table(result, names))
    assert max(map(len, text.getvalue().splitlines())) <= 80
    for cell in (" 50.0 ", " 100.0 ", "background"):
        assert text.getvalue().count(cell) == 1
    assert text.getvalue().count(" - ") == 19
