"""The VOC layout: lists, label sources, and every way in which a tree can be wrong."""

import os
from pathlib import Path

import numpy as np
import pytest

from data_trees import annotation, make_voc, write_image, write_mask, write_text
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.classes import VOC_CLASSES
from dist_oaa.data.sources import open_image_set

TRAIN = "ImageSets/Segmentation/train.txt"


def open_voc(root, **settings):
    return open_image_set(DataConfig(root=str(root), layout="voc", **settings))


def found(root, **settings):
    image_set = open_voc(root, **settings)
    return {s.id: [image_set.class_names[c] for c in s.classes] for s in image_set.samples}


def refused(root, sentence, **settings):
    with pytest.raises(UserError, match=sentence) as caught:
        open_voc(root, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_samples_in_the_order_of_the_list(tmp_path):
    root = make_voc(tmp_path, {"b": "dog person", "a": "cat", "sub/c": "train"})
    write_mask(root / "SegmentationClass/a.png", np.zeros((6, 8)))
    image_set = open_voc(root)
    assert [s.id for s in image_set.samples] == ["b", "a", "sub/c"]
    assert image_set.class_names == VOC_CLASSES
    assert image_set.samples[0].classes == (11, 14)
    assert image_set.samples[0].path == root / "JPEGImages/b.jpg"
    assert [s.mask for s in image_set.samples] == [None, root / "SegmentationClass/a.png", None]
    assert image_set.label_source == "labels.csv"


def test_other_suffixes(tmp_path):
    root = make_voc(tmp_path, {"a": "cat", "b": "dog"})
    os.rename(root / "JPEGImages/a.jpg", root / "JPEGImages/a.jpeg")
    write_image(root / "JPEGImages/b.png")
    os.unlink(root / "JPEGImages/b.jpg")
    assert [s.path.name for s in open_voc(root).samples] == ["a.jpeg", "b.png"]


def test_label_sources_in_their_order(tmp_path):
    root = make_voc(tmp_path, {"a": "cat"})
    write_text(root / "Annotations/a.xml", annotation("dog", "person", "dog"))
    write_text(root / "mine.txt", "a cow\n")
    assert found(root, labels="mine.txt") == {"a": ["cow"]}
    assert open_voc(root, labels="mine.txt").label_source == "mine.txt"
    assert found(root) == {"a": ["cat"]}
    os.unlink(root / "labels.csv")
    assert found(root) == {"a": ["dog", "person"]}
    assert open_voc(root).label_source == "Annotations/*.xml"
    os.rename(root / "Annotations", root / "Other")
    refused(root, r"no image-level labels, expected labels\.csv or Annotations/\*\.xml")
    refused(root, r"data\.labels: .*none\.csv does not exist", labels="none.csv")


def test_labels_by_index(tmp_path):
    root = make_voc(tmp_path, {"a": "cat"})
    write_text(root / "cls.txt", "a.jpg 1 0\n")
    assert found(root, labels="cls.txt", classes=["x", "y"]) == {"a": ["x", "y"]}


def test_difficult_objects_count_and_parts_do_not(tmp_path):
    root = make_voc(tmp_path, {"a": "cat"})
    os.unlink(root / "labels.csv")
    write_text(root / "Annotations/a.xml", annotation("bird", difficult=1))
    assert found(root) == {"a": ["bird"]}


def test_masks_are_never_opened(tmp_path, monkeypatch):
    root = make_voc(tmp_path, {"a": "cat", "b": "dog"})
    garbage = write_text(root / "SegmentationClass/a.png", "no mask at all")
    garbage.chmod(0)
    opened = []
    real = open
    monkeypatch.setattr(
        "builtins.open", lambda path, *a, **k: opened.append(str(path)) or real(path, *a, **k)
    )
    image_set = open_voc(root)
    assert image_set.samples[0].mask == garbage
    assert any(path.endswith("labels.csv") for path in opened)
    assert not any("SegmentationClass" in path for path in opened)


def test_splits_share_their_classes(tmp_path):
    root = make_voc(tmp_path, {"a": "cat", "b": "zebra"})
    write_text(root / "ImageSets/Segmentation/val.txt", "a\n")
    assert open_voc(root, split="val").class_names == ("cat", "zebra")
    os.unlink(root / "labels.csv")
    write_text(root / "Annotations/a.xml", annotation("cat"))
    write_text(root / "Annotations/b.xml", annotation("zebra"))
    assert open_voc(root, split="val").class_names == ("cat", "zebra")


def test_missing_list_names_those_there_are(tmp_path):
    root = make_voc(tmp_path, {"a": "cat"})
    write_text(root / "ImageSets/Main/val.txt", "a\n")
    message = refused(root, "trian.txt does not exist", split="trian")
    assert "ImageSets/Main/val.txt, ImageSets/Segmentation/train.txt" in message
    refused(root, "without '..'", split="../../../etc/passwd")


def test_main_style_list(tmp_path):
    root = make_voc(tmp_path, {"a": "cat", "b": "dog", "c": "cow"})
    write_text(root / "ImageSets/Main/cat_train.txt", "a  1\nb -1\nc  0\n")
    assert list(found(root, split="cat_train")) == ["a", "b", "c"]


def test_list_without_images(tmp_path):
    root = make_voc(tmp_path, {"a": "cat"})
    write_text(root / TRAIN, "\n\n")
    refused(root, "has no image in its voc layout")


def test_missing_image_names_list_line_and_path(tmp_path):
    root = make_voc(tmp_path, {"a": "cat", "b": "dog"})
    os.unlink(root / "JPEGImages/b.jpg")
    refused(root, rf"{TRAIN}, line 2: the image .*JPEGImages/b\.jpg does not exist")


def test_image_without_a_label(tmp_path):
    root = make_voc(tmp_path, {"a": "cat", "b": ""})
    refused(root, r"labels\.csv, line 3: the image 'b' has no class")
    write_text(root / "labels.csv", "image_id,classes\na,cat\n")
    refused(root, rf"{TRAIN}, line 2: the image 'b' has no label, expected in labels\.csv")
    os.unlink(root / "labels.csv")
    write_text(root / "Annotations/a.xml", annotation("cat"))
    refused(root, rf"{TRAIN}, line 2: the image 'b' has no label, expected in Annotations/b\.xml")
    write_text(root / "Annotations/b.xml", annotation())
    refused(root, r"Annotations/b\.xml: the image 'b' has no class")


def test_unknown_class_names_file_line_and_nearest(tmp_path):
    root = make_voc(tmp_path, {"a": "cat", "b": "dog aeroplan"})
    refused(root, r"labels\.csv, line 3: the image 'b' .*'aeroplan'; the nearest .* 'aeroplane'")
    os.unlink(root / "labels.csv")
    write_text(root / "Annotations/a.xml", annotation("cat"))
    write_text(root / "Annotations/b.xml", annotation("hors"))
    refused(root, r"Annotations/b\.xml: the image 'b' .*'hors'; the nearest .* 'horse'")


@pytest.mark.parametrize("entry", ["../x", "/etc/passwd", "sub/../../x"])
def test_entries_that_leave_the_root(tmp_path, entry):
    root = make_voc(tmp_path / "root", {"a": "cat"})
    write_image(tmp_path / "root/x.jpg")
    with open(root / TRAIN, "a") as stream:
        stream.write(entry + "\n")
    refused(root, rf"{TRAIN}, line 2: '{entry}' .*root")


@pytest.mark.parametrize("name", ["JPEGImages/b.jpg", "SegmentationClass/b.png"])
def test_symbolic_link_out_of_the_root(tmp_path, name):
    root = make_voc(tmp_path / "root", {"a": "cat", "b": "dog"})
    outside = write_image(tmp_path / "outside.jpg")
    Path(root / name).unlink(missing_ok=True)
    Path(root / name).parent.mkdir(exist_ok=True)
    Path(root / name).symlink_to(outside)
    refused(root, rf"{TRAIN}, line 2: .*leads out of the data-set root .*outside\.jpg")


def test_duplicate_id_names_both_lines(tmp_path):
    root = make_voc(tmp_path, {"a": "cat", "b": "dog"})
    write_text(root / TRAIN, "a\nb\n./a\n")
    refused(root, rf"{TRAIN}, lines 1 and 3: the id 'a' twice")


def test_xml_attacks_are_refused(tmp_path):
    root = make_voc(tmp_path, {"a": "cat"})
    os.unlink(root / "labels.csv")
    secret = write_text(tmp_path / "secret", "cat")
    bomb = '<!DOCTYPE a [<!ENTITY x "cat"><!ENTITY y "&x;&x;">]>' + annotation("&y;")
    external = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]>' + annotation("&x;")
    for text in (bomb, external, "<annotation><object>", "<annotation><object/></annotation>"):
        write_text(root / "Annotations/a.xml", text)
        refused(root, r"Annotations/a\.xml cannot be read as a VOC annotation")


def test_real_voc_images(request):
    data = os.environ.get("OAA_TEST_DATA", request.config.rootpath.parent / "shared/data")
    root = Path(data) / "voc2012-dev"
    if not root.is_dir():
        pytest.skip(f"no VOC images at {root} (OAA_TEST_DATA)")
    for split, count in (("train", 582), ("val", 291)):
        image_set = open_voc(root, split=split)
        assert len(image_set) == count
        assert image_set.class_names == VOC_CLASSES
        assert image_set.labels_NC.shape == (count, 20)
        assert image_set.labels_NC.any(axis=0).all()
        assert image_set.labels_NC.any(axis=1).all()
