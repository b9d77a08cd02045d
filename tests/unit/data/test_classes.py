"""Label files and class names."""

import re

import pytest

from data_trees import write_text
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.classes import (
    VOC_CLASSES,
    ClassTable,
    LabelRow,
    class_table,
    nearest,
    read_label_file,
)
from dist_oaa.data.problems import CollectedProblems, Problems


def names(root, used, classes=()):
    return class_table(DataConfig(classes=list(classes)), root, used, "labels.csv").names


def read(path):
    rows = read_label_file(path, Problems())
    return {image_id: row.classes for image_id, row in rows.items()}


def test_csv_and_list_say_the_same(tmp_path):
    csv = "image_id,split,classes\na,x,cat dog\n\n2007_000032.jpg,x,cow\n"
    expected = {"a": ("cat", "dog"), "2007_000032": ("cow",)}
    assert read(write_text(tmp_path / "l.csv", "\ufeff" + csv)) == expected
    assert read(write_text(tmp_path / "l.txt", "a cat  dog\n\n2007_000032.jpg cow\n")) == expected


def test_rows_know_their_line(tmp_path):
    path = write_text(tmp_path / "l.csv", "image_id,classes\na,cat\n\nb,dog\n")
    assert read_label_file(path, Problems())["b"].where == f"{path}, line 4"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no column 'image_id'.*found an empty file"),
        ("id,classes\na,cat\n", "no column 'image_id'.*found id, classes"),
        ("image_id,classes\na,cat,dog\n", "line 2: another number of cells.*expected 2"),
        ("image_id,classes\na\n", "line 2: another number of cells"),
        ("image_id,classes\na,cat\nb,dog\na,cow\n", "lines 2 and 4: the id 'a' twice"),
        ('image_id,classes\na,"cat\n', "not valid CSV"),
    ],
)
def test_faulty_csv(tmp_path, text, sentence):
    path = write_text(tmp_path / "labels.csv", text)
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*" + sentence):
        read(path)


def test_label_file_that_is_not_text(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(b"a caf\xe9\n")
    with pytest.raises(UserError, match=r"labels\.txt cannot be read: it is not UTF-8"):
        read(path)


def test_class_names_follow_the_documented_order(tmp_path):
    assert names(tmp_path, {"cat", "train"}) == VOC_CLASSES
    assert names(tmp_path, {"cat", "zebra"}) == ("cat", "zebra")
    write_text(tmp_path / "classes.txt", "zebra\n\ncat\nyak\n")
    assert names(tmp_path, {"cat", "zebra"}) == ("zebra", "cat", "yak")
    assert names(tmp_path, {"cat"}) == ("zebra", "cat", "yak")
    assert names(tmp_path, {"cat", "zebra"}, ["cat", "dog"]) == ("cat", "dog")


def test_misspelt_voc_class_is_no_new_class(tmp_path):
    assert names(tmp_path, {"cat", "aeroplan"}) == VOC_CLASSES
    assert names(tmp_path, {"Cat"}) == VOC_CLASSES
    assert names(tmp_path, {"cat", "aeroplan", "zebra"}) == ("aeroplan", "cat", "zebra")


def test_indices(tmp_path):
    every = [str(i) for i in range(20)]
    table = class_table(DataConfig(), tmp_path, every, "train_cls.txt")
    assert table == ClassTable(VOC_CLASSES, numeric=True)
    assert table.indices("a", LabelRow(("14", "00", "3"), "x"), Problems()) == (0, 3, 14)
    with pytest.raises(UserError, match=r"x: .*unknown class '20'; the 20 classes.*0 to 19"):
        table.indices("a", LabelRow(("20",), "x"), Problems())
    with pytest.raises(UserError, match=r"train_cls\.txt labels images by class indices"):
        class_table(DataConfig(), tmp_path, {"0", "4"}, "train_cls.txt")
    assert class_table(DataConfig(classes=["p", "q"]), tmp_path, {"0"}, "").numeric
    # A class may be called by a number.
    digits = class_table(DataConfig(classes=["7", "3"]), tmp_path, {"3", "7"}, "")
    assert not digits.numeric
    assert digits.indices("a", LabelRow(("3",), "x"), Problems()) == (1,)


def test_twice_named_class(tmp_path):
    with pytest.raises(UserError, match=r"data\.classes names the class 'cat' twice"):
        names(tmp_path, {"cat"}, ["cat", "dog", "cat"])
    write_text(tmp_path / "classes.txt", "dog\ndog\n")
    with pytest.raises(UserError, match=r"classes\.txt names the class 'dog' twice"):
        names(tmp_path, {"yak"})


def test_unknown_class_is_named_with_its_nearest(tmp_path):
    table = ClassTable(VOC_CLASSES)
    with pytest.raises(UserError, match=r"f\.csv, line 3: .*'i7'.*'aeroplan'.*is 'aeroplane'"):
        table.indices("i7", LabelRow(("cat", "aeroplan"), "f.csv, line 3"), Problems())
    assert nearest("Person ", VOC_CLASSES) == ["person"]
    problems = CollectedProblems()
    row = LabelRow(("cat", "zzz", "bird", "cat"), "w")
    assert table.indices("i", row, problems) == (2, 7)
    assert [p.kind for p in problems.found] == ["unknown_class"]
