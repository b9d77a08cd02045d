"""The CSV table."""

import numpy as np
import pytest

from data_trees import write_image, write_mask, write_text
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.sources import open_image_set


def open_table(root, text, **settings):
    write_text(root / "t.csv", text)
    return open_image_set(DataConfig(root=str(root), table="t.csv", **settings))


def test_columns(tmp_path):
    write_image(tmp_path / "p/a.one.jpg")
    write_image(tmp_path / "b.png")
    write_mask(tmp_path / "m/b.png", np.zeros((6, 8)))
    text = "classes,id,path,mask,note\nzebra cat,,./p/a.one.jpg,,x\ncat,second,b.png,m/b.png,y\n"
    image_set = open_table(tmp_path, text)
    first, second = image_set.samples
    assert image_set.class_names == ("cat", "zebra")
    assert image_set.label_source == "t.csv"
    assert (first.id, first.classes, first.mask) == ("p/a.one", (0, 1), None)
    assert first.path == tmp_path / "p/a.one.jpg"
    assert (second.id, second.classes, second.mask) == ("second", (0,), tmp_path / "m/b.png")


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("none.jpg,cat,,", r"t\.csv, line 3: the image .*none\.jpg does not exist"),
        ("b.jpg,cat,,none.png", r"t\.csv, line 3: the mask .*none\.png does not exist"),
        ("b.jpg,,,", r"t\.csv, line 3: the image 'b' has no class"),
        ("b.jpg,catt,,", r"t\.csv, line 3: .*'catt'.*'cat'"),
        ("b.jpg,cat,a,", r"t\.csv, line 2 and .*t\.csv, line 3: the id 'a' twice"),
        ("a.png,cat,,", r"line 2 and .*line 3: the id 'a' twice"),
        ("../b.jpg,cat,b,", r"t\.csv, line 3: '\.\./b\.jpg' may leave"),
        ("/b.jpg,cat,b,", r"t\.csv, line 3: '/b\.jpg' is absolute"),
        ("b.jpg,cat,../b,", r"t\.csv, line 3: '\.\./b' may leave"),
        (",cat,,", r"t\.csv, line 3: '' names no file"),
        ("b.jpg,cat dog", "line 3: another number of cells"),
    ],
)
def test_faulty_rows(tmp_path, row, sentence):
    for name in ("a.jpg", "a.png", "b.jpg"):
        write_image(tmp_path / name)
    with pytest.raises(UserError, match=sentence):
        open_table(tmp_path, f"path,classes,id,mask\na.jpg,cat,,\n{row}\n")


def test_faulty_tables(tmp_path):
    with pytest.raises(UserError, match="no column 'classes'"):
        open_table(tmp_path, "path,labels\na,b\n")
    with pytest.raises(UserError, match="has no image in its table layout"):
        open_table(tmp_path, "path,classes\n")
    with pytest.raises(UserError, match=r"data\.table: .*other\.csv does not exist"):
        open_image_set(DataConfig(root=str(tmp_path), table="other.csv"))
