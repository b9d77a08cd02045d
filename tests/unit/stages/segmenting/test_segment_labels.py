"""Where label images come from, which images are trained on, and whose mask is the true one."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_oaa.config.errors import UserError
from dist_oaa.config.segment import SegmentConfig, SegmentDataConfig
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.stages.segmenting.labels import choose_training, open_labels

NAMES = ("cat", "dog")


def write_label(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
    return path


@pytest.fixture
def image_set(tmp_path) -> ImageSet:
    """40 images, the first 30 with a mask; one lies in a sub-folder."""
    ids = [f"{n:02d}" for n in range(39)] + ["sub/39"]
    masks = [Path(f"masks/{i}.png") if n < 30 else None for n, i in enumerate(ids)]
    samples = [Sample(i, Path(f"{i}.jpg"), (0,), mask) for i, mask in zip(ids, masks, strict=True)]
    return ImageSet(tmp_path / "data", NAMES, tuple(samples), "labels.csv")


@pytest.fixture
def run_dir(tmp_path, image_set) -> Path:
    """What `oaa pseudo-label` leaves."""
    run_dir = tmp_path / "labelled"
    for sample in image_set.samples:
        write_label(run_dir / "labels" / f"{sample.id}.png")
    (run_dir / "classes.txt").write_text("cat\ndog\n")
    summary = {"supervision": ["supervision: tags", "saliency none"], "skipped": {}}
    (run_dir / "labels.json").write_text(json.dumps(summary))
    return run_dir


def choose(image_set, labels: Path | str = "", seed: int = 0, **data):
    config = SegmentConfig(labels=str(labels), seed=seed, data=SegmentDataConfig(**data))
    return choose_training(config, image_set)[0]


def test_a_run_its_folder_and_any_folder(run_dir, tmp_path):
    found = open_labels(str(run_dir), NAMES)
    assert found.folder == run_dir / "labels"
    assert found.supervision == ("supervision: tags", "saliency none")
    assert open_labels(str(run_dir / "labels"), NAMES) == found
    (tmp_path / "mine").mkdir()
    mine = open_labels(str(tmp_path / "mine"), NAMES)
    assert (mine.folder, mine.supervision, mine.skipped) == (tmp_path / "mine", (), frozenset())


def test_every_image_gets_its_label(image_set, run_dir):
    training = choose(image_set, run_dir)
    assert [s.id for s in training.samples] == [s.id for s in image_set.samples]
    assert training.samples[-1].label == run_dir / "labels" / "sub" / "39.png"
    assert (training.true_masks, training.skipped, training.of) == (0, 0, 40)


def test_a_missing_label_is_named_unless_it_was_skipped(image_set, run_dir):
    (run_dir / "labels" / "07.png").unlink()
    with pytest.raises(UserError, match=r"07\.png does not exist: the image '07' has no label"):
        choose(image_set, run_dir)
    summary = json.loads((run_dir / "labels.json").read_text())
    summary["skipped"] = {"07": "07.jpg cannot be read"}
    (run_dir / "labels.json").write_text(json.dumps(summary))
    training = choose(image_set, run_dir)
    assert len(training.samples) == 39
    assert training.skipped == 1
    assert "07" not in {s.id for s in training.samples}


def test_shares_are_nested_and_depend_on_the_seed(image_set, run_dir):
    chosen = {
        share: {s.id for s in choose(image_set, run_dir, fraction=share).samples}
        for share in (0.01, 0.25, 0.5, 1.0)
    }
    assert {share: len(ids) for share, ids in chosen.items()} == {
        0.01: 1, 0.25: 10, 0.5: 20, 1.0: 40,
    }  # fmt: skip
    assert chosen[0.01] < chosen[0.25] < chosen[0.5] < chosen[1.0]
    other = {s.id for s in choose(image_set, run_dir, seed=1, fraction=0.5).samples}
    assert other != chosen[0.5]
    ids = [s.id for s in choose(image_set, run_dir, fraction=0.5).samples]
    assert ids == sorted(ids)


def test_true_masks_for_a_share_of_the_images(image_set, run_dir):
    training = choose(image_set, run_dir, pixel_fraction=0.5)
    assert training.true_masks == 20
    masks = {s.id: s.mask for s in image_set.samples}
    for sample in training.samples:
        expected = masks[sample.id] if sample.is_truth else run_dir / f"labels/{sample.id}.png"
        assert sample.label == expected
    few = {s.id for s in choose(image_set, run_dir, pixel_fraction=0.2).samples if s.is_truth}
    assert len(few) == 8
    assert few < {s.id for s in training.samples if s.is_truth}


def test_true_masks_alone_need_no_labels(image_set):
    having = ImageSet(image_set.root, NAMES, image_set.samples[:30], "labels.csv")
    training = choose(having, pixel_fraction=1.0)
    assert training.true_masks == len(training.samples) == 30
    with pytest.raises(UserError, match="labels is empty, expected a run of oaa pseudo-label"):
        choose(having, pixel_fraction=0.9)


def test_more_true_masks_than_there_are(image_set, run_dir):
    with pytest.raises(UserError, match=r"data.pixel_fraction is 0.9, 36 of 40 images.*only 30"):
        choose(image_set, run_dir, pixel_fraction=0.9)


def refused(run_dir: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        open_labels(str(run_dir), NAMES)
    assert "\n" not in str(caught.value)


def test_folders_that_hold_no_labels(run_dir, tmp_path, image_set):
    refused(tmp_path / "nowhere", r"labels: .*nowhere is no folder, expected a run of")
    (run_dir / "classes.txt").write_text("cat\nhorse\n")
    refused(run_dir, "have other classes than the data set: class 1 is 'horse' there, 'dog' here")
    (run_dir / "classes.txt").write_text("cat\n")
    refused(run_dir, "1 classes there, 2 here")
    (run_dir / "labels.json").write_text("[")
    refused(run_dir, r"labels\.json cannot be read")
    (run_dir / "labels.json").write_text("[]")
    refused(run_dir, r"labels\.json holds no summary")
    (run_dir / "labels.json").unlink()
    refused(run_dir, r"has no labels\.json, so its labels are not complete")


def test_all_images_skipped(run_dir, image_set):
    every = {s.id: "bad" for s in image_set.samples}
    (run_dir / "labels.json").write_text(json.dumps({"skipped": every}))
    with pytest.raises(UserError, match="a label for none of the 40 images"):
        choose(image_set, run_dir)


def test_a_label_outside_the_folder(run_dir, image_set, tmp_path):
    (run_dir / "labels" / "07.png").unlink()
    (run_dir / "labels" / "07.png").symlink_to(write_label(tmp_path / "o.png"))
    with pytest.raises(UserError, match="leads out of"):
        choose(image_set, run_dir)
