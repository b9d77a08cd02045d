"""The layout of CUB-200-2011: what becomes of its files, and what is said of faults in them."""

from pathlib import Path

import pytest

from birds import NAMES, make_cub
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.problems import CollectedProblems
from dist_oaa.data.sources import layout_of, open_image_set


@pytest.fixture
def root(tmp_path) -> Path:
    return make_cub(tmp_path / "cub", train=4, test=2)


def data(root: Path, split: str = "train", **changes: object) -> DataConfig:
    return DataConfig(root=str(root), split=split, **changes)


def edit(root: Path, name: str, old: str, new: str) -> None:
    path = root / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_splits_names_and_classes(root):
    assert layout_of(data(root)) == "cub"
    found = {split: open_image_set(data(root, split)) for split in ("train", "test", "all")}
    ids = {split: [s.id for s in images.samples] for split, images in found.items()}
    assert ids["train"] == [
        "002.Blackbird/Bird_0001",
        "003.Wren/Bird_0002",
        "001.Auk/Bird_0003",
        "002.Blackbird/Bird_0004",
    ]
    assert ids["all"] == ids["train"] + ids["test"]
    assert [s.classes for s in found["train"].samples] == [(1,), (2,), (0,), (1,)]
    assert found["test"].class_names == NAMES
    assert found["test"].label_source == "image_class_labels.txt"
    assert all(s.path.is_file() and s.mask is None for s in found["all"].samples)


def test_classes_are_ordered_by_number_not_by_line_or_name(root):
    (root / "classes.txt").write_text("10 a\n2 z\n1 m\n")
    (root / "image_class_labels.txt").write_text("1 10\n2 2\n3 1\n4 10\n5 2\n6 1\n")
    images = open_image_set(data(root))
    assert images.class_names == ("m", "z", "a")
    assert [s.classes for s in images.samples] == [(2,), (1,), (0,), (2,)]


def test_given_classes_number_anew(root):
    order = ["003.Wren", "001.Auk", "002.Blackbird"]
    images = open_image_set(data(root, classes=order))
    assert [s.classes for s in images.samples] == [(2,), (0,), (1,), (2,)]


@pytest.mark.parametrize(
    ("name", "old", "new", "match"),
    [
        ("train_test_split.txt", "2 1", "2 x", "train_test_split.txt, line 2.*'x', expected 1 or"),
        ("train_test_split.txt", "2 1\n", "", "images.txt, line 2.*image 2 has no line"),
        ("image_class_labels.txt", "2 3\n", "", "'003.Wren/Bird_0002' has no class"),
        ("image_class_labels.txt", "2 3", "2 4", "labels.txt, line 2: the class 4 is not in"),
        ("image_class_labels.txt", "2 3", "99 3", "line 2: the image 99 is not in images.txt"),
        ("image_class_labels.txt", "2 3", "1 3", "lines? 1 and .*line 2: the id 1 twice"),
        ("images.txt", "Bird_0002.jpg", "Bird_9.jpg", "Bird_9.jpg does not exist"),
        ("images.txt", "003.Wren/Bird_0002.jpg", "../up.jpg", "images.txt, line 2.*without '..'"),
        ("images.txt", "2 003.Wren/Bird_0002.jpg", "two", "images.txt, line 2 is 'two', expected"),
        ("classes.txt", "1 001.Auk", "1", "classes.txt, line 1 is '1', expected"),
    ],
)
def test_faults_name_the_file_and_line(root, name, old, new, match):
    edit(root, name, old, new)
    with pytest.raises(UserError, match=match) as caught:
        open_image_set(data(root))
    assert "\n" not in str(caught.value)
    problems = CollectedProblems()
    open_image_set(data(root), problems)
    assert problems.found


def test_missing_file_and_unknown_split(root):
    with pytest.raises(UserError, match="'val', expected train, test, all"):
        open_image_set(data(root, "val"))
    (root / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"classes.txt does not exist, expected it in a data set"):
        open_image_set(data(root))
