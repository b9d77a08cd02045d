"""Which images the threshold may be chosen on: never those of the training or of the report."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from PIL import Image

from birds import classifier_run, make_cub
from dist_oaa.config.data import DataConfig, HoldoutConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.localize import LocalizeConfig, LocalizeDataConfig, ThresholdConfig
from dist_oaa.data.holdout import split_holdout
from dist_oaa.stages.localizing.lists import open_lists
from dist_oaa.stages.trained import Trained, load_classifier

HOLDOUT = HoldoutConfig(fraction=0.4, seed=3)
FIXED = ThresholdConfig(choose="fixed")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_cub(tmp_path_factory.mktemp("data") / "cub")


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory) -> Trained:
    data = DataConfig(root=str(root), holdout=HOLDOUT)
    return load_classifier(classifier_run(tmp_path_factory.mktemp("run"), data))


def config(root: Path, threshold: ThresholdConfig | None = None, **data: object) -> LocalizeConfig:
    return LocalizeConfig(
        checkpoint="RUN",
        data=LocalizeDataConfig(**{"root": str(root)} | data),
        threshold=threshold or ThresholdConfig(),
    )


def ids(listed) -> list[str]:
    return [sample.id for sample in listed.image_set.samples]


def test_the_validation_list_is_what_the_training_left_out(root, trained):
    lists = open_lists(config(root), trained)
    train = ids(open_lists(config(root, FIXED, split="train"), trained).reported)
    _, held = split_holdout(train, HOLDOUT.fraction, HOLDOUT.seed)
    assert ids(lists.validation) == held
    assert 0 < len(held) < len(train)
    assert set(lists.validation.boxes.by_image) == set(held)
    assert len(ids(lists.reported)) == 7
    assert lists.trained_on == 0
    assert lists.validation.name == "40 % of the split train, held out of the training"


def test_nothing_held_out_is_refused_and_says_what_to_do(root, trained):
    whole = dataclasses.replace(trained, data=DataConfig(root=str(root)))
    with pytest.raises(UserError, match=r"checkpoint RUN was trained on its whole list .*fixed"):
        open_lists(config(root), whole)


def test_a_list_that_was_trained_on_is_refused(root, trained):
    with pytest.raises(UserError, match=r"split train\) has \d+ images that the checkpoint was"):
        open_lists(config(root, ThresholdConfig(split="train")), trained)


def test_the_reported_list_is_refused(root, trained):
    with pytest.raises(UserError, match=r"split test\) has 7 images that the reported list has"):
        open_lists(config(root, ThresholdConfig(split="test")), trained)
    with pytest.raises(UserError, match=r"held out of the training\) has .* the reported list has"):
        open_lists(config(root, split="all"), trained)


def test_the_same_file_in_another_layout_is_found(root, trained, tmp_path):
    files = sorted((root / "images").rglob("*.jpg"))
    lines = [f"{file.relative_to(root / 'images')},0,0,9,9\n" for file in files]
    (tmp_path / "boxes.csv").write_text("".join(lines))
    folders = config(root / "images", FIXED, layout="folder", boxes=str(tmp_path / "boxes.csv"))
    lists = open_lists(folders, trained)
    assert len(ids(lists.reported)) == len(files)
    assert lists.trained_on == open_lists(config(root, FIXED, split="all"), trained).trained_on > 0


def test_trained_images_in_the_report_are_counted(root, trained):
    lists = open_lists(config(root, FIXED, split="all"), trained)
    kept, _ = split_holdout(
        ids(open_lists(config(root, FIXED, split="train"), trained).reported), 0.4, 3
    )
    assert lists.trained_on == len(kept)


def test_a_training_list_that_is_gone(root, trained, tmp_path):
    gone = dataclasses.replace(trained.data, root=str(tmp_path / "gone"))
    moved = dataclasses.replace(trained, data=gone)
    # It has the same layout: the same list is found where the data set lies now.
    assert open_lists(config(root), moved).trained_on == 0
    lost = dataclasses.replace(moved, data=dataclasses.replace(gone, layout="voc"))
    assert open_lists(config(root, FIXED), lost).trained_on is None
    with pytest.raises(UserError):
        open_lists(config(root), lost)


def test_other_classes_are_refused(root, trained, tmp_path):
    other = shutil.copytree(root, tmp_path / "other")
    (other / "classes.txt").write_text("1 001.Auk\n2 002.Blackbird\n3 003.Robin\n")
    with pytest.raises(UserError, match=r"class 2 is '003.Wren' there, '003.Robin' here"):
        open_lists(config(other), trained)


def test_a_box_outside_its_image_is_refused(root, trained, tmp_path):
    own = Path(shutil.copytree(root, tmp_path / "own"))
    with Image.open(next(own.glob("images/*/*.jpg"))) as image:
        width = image.width
    text = (own / "bounding_boxes.txt").read_text().splitlines()
    number = text[-1].split()[0]
    text[-1] = f"{number} 0 0 {width + 99} 9"
    (own / "bounding_boxes.txt").write_text("\n".join(text))
    with pytest.raises(UserError, match=r"bounding_boxes.txt, line 19: .* lies outside its image"):
        open_lists(config(own), trained)
