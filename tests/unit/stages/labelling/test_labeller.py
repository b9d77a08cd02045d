"""One image in a worker: the file that it writes, what it counts, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_oaa.config.errors import UserError
from dist_oaa.config.labels import BackgroundConfig, LabelsConfig
from dist_oaa.data.sample import Sample
from dist_oaa.evaluation.segmentation import Confusion
from dist_oaa.labels.label_image import label_image
from dist_oaa.stages.labelling.labeller import Labeller, LabelTask, at_image_size, label_one

FIXED = BackgroundConfig(method="fixed", threshold=0.4, margin=0.1)
LABELS = LabelsConfig(background=FIXED)
CLASSES = 5


@pytest.fixture
def sample(tmp_path) -> Sample:
    """A photograph of 30 x 40 pixels in a sub-folder, with a mask of two classes."""
    rng = np.random.default_rng(0)
    path, mask = tmp_path / "in.png", tmp_path / "mask.png"
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    truth_HW = np.zeros((30, 40), np.uint8)
    truth_HW[5:20, 5:20], truth_HW[5:20, 20:35], truth_HW[0] = 2, 4, 255
    Image.fromarray(truth_HW).save(mask)
    return Sample("shots/one", path, (1, 3), mask)


def maps() -> np.ndarray:
    """Two blobs of float32 on 8 x 8 cells, left and right."""
    y, x = np.mgrid[0:8, 0:8].astype(np.float32)
    blobs = [np.exp(-((x - cx) ** 2 + (y - 3) ** 2) / 6) for cx in (2, 5)]
    # From zero, so that stretching them over their range changes nothing.
    return np.stack([blob - blob.min() for blob in blobs]).astype(np.float32)


def labeller(folder: Path, config: LabelsConfig = LABELS, saliency: Path | None = None) -> Labeller:
    return Labeller(config, saliency, CLASSES, 1.0, folder)


def test_the_label_and_its_counts(sample, tmp_path):
    task = LabelTask(sample, (1, 3), maps(), threshold=0.4, keep=True)
    found = label_one(labeller(tmp_path / "out"), task)
    with Image.open(tmp_path / "out/shots/one.png") as picture:
        assert (picture.mode, picture.size) == ("P", (40, 30))
        # VOC's colours: aeroplane is dark red, ignored pixels nearly white.
        assert picture.getpalette()[3:6] == [128, 0, 0]
        assert picture.getpalette()[-3:] == [224, 224, 192]
        label_HW = np.array(picture)
    image_HW3 = np.asarray(Image.open(sample.path))
    maps_KHW = at_image_size(maps(), 30, 40)
    assert np.array_equal(label_HW, label_image(image_HW3, (1, 3), maps_KHW, None, LABELS, 0.4))
    assert {0, 2, 4, 255} == set(np.unique(label_HW))
    assert np.array_equal(found.label_HW, label_HW)
    assert found.saliency_HW is None
    assert found.pixels_V.sum() == 1200
    assert found.pixels_V[4] == (label_HW == 4).sum()
    truth_HW = np.array(Image.open(sample.mask))
    expected = Confusion(CLASSES)
    expected.update(label_HW, truth_HW)
    assert np.array_equal(found.labels, expected.counts)
    # With nothing ignored, exactly the pixels above the threshold are objects.
    objects_HW = (maps_KHW > 0.4).any(axis=0)
    assert found.dense[:, -1].sum() == 0
    assert found.dense[:, 1:].sum() == (objects_HW & (truth_HW != 255)).sum()


def test_an_image_without_attention_is_ignored_whole(sample, tmp_path):
    nothing = np.zeros((0, 8, 8), np.float32)
    found = label_one(labeller(tmp_path), LabelTask(sample, (), nothing))
    assert set(np.unique(np.array(Image.open(tmp_path / "shots/one.png")))) == {255}
    assert found.pixels_V[255] == 1200
    # The dense label calls it background.
    assert found.dense[:, 0].sum() == (np.array(Image.open(sample.mask)) != 255).sum()


def test_without_a_mask_nothing_is_measured(sample, tmp_path):
    bare = Sample(sample.id, sample.path, sample.classes, None)
    found = label_one(labeller(tmp_path), LabelTask(bare, (1, 3), maps(), 0.4))
    assert found.labels is None
    assert found.dense is None
    assert found.label_HW is None


def test_an_unreadable_image_is_an_answer(sample, tmp_path):
    sample.path.write_bytes(b"")
    found = label_one(labeller(tmp_path / "out"), LabelTask(sample, (1, 3), maps(), 0.4))
    assert f"{sample.path} cannot be read as an image" in found.bad
    assert found.labels is None
    assert not (tmp_path / "out").exists()
    large = Labeller(LABELS, None, CLASSES, 1e-5, tmp_path)
    assert "cannot be read" in label_one(large, LabelTask(sample, (1, 3), maps(), 0.4)).bad


def refused(sample: Sample, folder: Path, match: str, **settings: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        label_one(labeller(folder, **settings), LabelTask(sample, (1, 3), maps(), 0.4))
    assert "\n" not in str(caught.value)


def test_masks_and_saliency_that_do_not_fit(sample, tmp_path):
    folder = tmp_path / "saliency"
    given = {"config": LabelsConfig(saliency="dir", saliency_dir="x"), "saliency": folder}
    refused(sample, tmp_path, r"saliency/shots/one.png is missing", **given)
    (folder / "shots").mkdir(parents=True)
    Image.new("L", (41, 30)).save(folder / "shots/one.png")
    refused(sample, tmp_path, r"one.png has \(30, 41\) pixels .* expected .*\(30, 40\)", **given)
    (folder / "shots/one.png").write_bytes(b"no image")
    refused(sample, tmp_path, r"one.png cannot be read", **given)
    Image.fromarray(np.full((30, 40), 6, np.uint8)).save(sample.mask)
    refused(sample, tmp_path, r"mask .*mask.png: truth holds palette value 6, expected 0 to 5")
    Image.new("L", (30, 40)).save(sample.mask)
    refused(sample, tmp_path, r"mask .*mask.png has \(40, 30\) pixels .* \(30, 40\)")
    sample.mask.write_bytes(b"")
    refused(sample, tmp_path, r"mask.png cannot be read")


def test_saliency_is_what_was_asked_for(sample, tmp_path):
    (tmp_path / "shots").mkdir()
    # The left half stands out.
    saliency_HW = np.zeros((30, 40), np.uint8)
    saliency_HW[:, :20] = 255
    Image.fromarray(saliency_HW).save(tmp_path / "shots/one.png")
    config = LabelsConfig(saliency="dir", saliency_dir="x")
    task = LabelTask(sample, (1, 3), maps(), keep=True)
    found = label_one(labeller(tmp_path / "out", config, tmp_path), task)
    assert np.array_equal(found.saliency_HW, saliency_HW)
    assert (found.label_HW[:, 20:] % 255 == 0).all()
    found = label_one(labeller(tmp_path / "out", LabelsConfig(saliency="spectral")), task)
    assert found.saliency_HW.shape == (30, 40)
    assert found.saliency_HW.max() == 255


def test_a_walk_on_features_needs_their_run(sample, tmp_path):
    walk = {"affinity": "features", "checkpoint": str(tmp_path / "none")}
    config = LabelsConfig(background=FIXED, refine=["random_walk"])
    for name, value in walk.items():
        setattr(config.random_walk, name, value)
    refused(sample, tmp_path / "out", "none is no run directory", config=config)
