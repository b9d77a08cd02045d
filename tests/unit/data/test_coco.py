"""COCO's layout: labels, order, boxes and what may be wrong with a file."""

import json
import pickle

import numpy as np
import pytest
from pycocotools.coco import COCO

from coco_trees import annotation, instances, make_coco, square
from data_trees import write_image, write_text
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.boxes import open_boxes
from dist_oaa.data.check import check
from dist_oaa.data.images import read_mask
from dist_oaa.data.sources import layout_of, open_image_set


def settings(root, **changes) -> DataConfig:
    return DataConfig(**{"root": str(root), "split": "val2017"} | changes)


def oracle(file, image_id: int, names: tuple[str, ...]) -> np.ndarray:
    """The mask by pycocotools' own reader, pixel by pixel: every class that covers a pixel."""
    coco = COCO(str(file))
    entries = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
    height, width = coco.imgs[image_id]["height"], coco.imgs[image_id]["width"]
    masks = [(e, coco.annToMask(e)) for e in entries]
    result = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            here = [e for e, mask in masks if mask[y, x]]
            classes = {e["category_id"] for e in here if not e["iscrowd"]}
            if len(classes) == 1:
                name = coco.cats[classes.pop()]["name"]
                result[y, x] = names.index(name) + 1
            elif here:
                result[y, x] = 255
    return result


def test_labels_order_and_names(tmp_path):
    config = settings(make_coco(tmp_path))
    assert layout_of(config) == "coco"
    images = open_image_set(config)
    assert images.class_names == ("cat", "dog", "tooth brush")  # ids 3, 7, 90
    assert [(s.id, s.classes) for s in images.samples] == [
        ("000000000009", (0, 1)),
        ("000000000004", (0, 1)),
        ("000000000005", (2,)),
        ("000000000008", (1,)),
    ]
    assert images.label_source == (
        "annotations/instances_val2017.json (1 images without an annotation left out)"
    )
    assert all(sample.path.is_file() for sample in images.samples)


def test_masks_are_those_of_pycocotools(tmp_path):
    images = open_image_set(settings(make_coco(tmp_path)))
    file = tmp_path / "annotations/instances_val2017.json"
    seen = set()
    for sample in images.samples:
        mask_HW = read_mask(sample.mask)
        np.testing.assert_array_equal(mask_HW, oracle(file, int(sample.id), images.class_names))
        seen |= set(np.unique(mask_HW).tolist())
    assert seen == {0, 1, 2, 3, 255}


def test_a_mask_travels_to_other_processes(tmp_path):
    sample = open_image_set(settings(make_coco(tmp_path))).samples[0]
    there = pickle.loads(pickle.dumps(sample))
    np.testing.assert_array_equal(read_mask(there.mask), read_mask(sample.mask))


def test_the_check_reads_everything(tmp_path):
    report = check(settings(make_coco(tmp_path)))
    assert report.problems == ()
    assert (report.images, report.masks) == (4, 4)
    assert report.boxes.startswith("6 on 4 images")


def test_boxes_are_edges(tmp_path):
    config = settings(make_coco(tmp_path))
    images = open_image_set(config)
    boxes = open_boxes(config, images)
    assert boxes.of(images.samples[0]) == {1: [(1, 2, 11.5, 10)], 0: [(1, 2, 11.5, 10)]}
    # The second dog of the last image has a box without an area.
    assert boxes.of(images.samples[3]) == {1: [(1, 2, 11.5, 10)]}


def test_a_file_beside_its_images(tmp_path):
    tree = instances()
    write_text(tmp_path / "train/_annotations.coco.json", json.dumps(tree))
    for image in tree["images"]:
        write_image(tmp_path / "train" / image["file_name"], 24, 32)
    config = settings(tmp_path, layout="coco", split="other", labels="train/_annotations.coco.json")
    assert len(open_image_set(config)) == 4


def test_classes_may_be_given_in_another_order(tmp_path):
    config = settings(make_coco(tmp_path), classes=["tooth brush", "dog", "cat"])
    images = open_image_set(config)
    assert images.samples[0].classes == (1, 2)
    assert set(np.unique(read_mask(images.samples[2].mask))) == {0, 1}
    with pytest.raises(UserError, match="unknown class 'cat'"):
        open_image_set(settings(tmp_path, classes=["dog"]))


def changed(**parts) -> dict:
    return instances() | parts


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ([], "has no list 'images'"),
        (changed(annotations={}), "has no list 'annotations'"),
        (changed(images=[{"id": "9"}]), r"images\[0\] is odd, expected id, file_name, width"),
        (changed(images=[{"id": 9, "file_name": "../x.jpg", "height": 2, "width": 2}],
                 annotations=[annotation(9, 3, [])]), "may leave the data-set root"),
        (changed(annotations=[annotation(1, 3, [])]), "is of the image 1, which is not in"),
        (changed(annotations=[annotation(9, 2, [])]), "has the unknown category 2"),
        (changed(annotations=[5]), "annotation 0 lacks image_id or category_id"),
        (changed(categories=[{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]), "two categories"),
        (changed(categories=[{"id": 3, "name": "a\nb"}], annotations=[]), "cannot be used"),
        (changed(annotations=[]), "has no image in its coco layout"),
    ],
)  # fmt: skip
def test_faults_of_a_file(tmp_path, tree, says):
    make_coco(tmp_path)
    write_text(tmp_path / "annotations/instances_val2017.json", json.dumps(tree))
    with pytest.raises(UserError, match=says) as caught:
        open_image_set(settings(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "{", "\ufeff{}", '{"images": 1e999999}'])
def test_what_is_no_json_of_instances(tmp_path, text):
    make_coco(tmp_path)
    write_text(tmp_path / "annotations/instances_val2017.json", text)
    with pytest.raises(UserError, match=r"instances_val2017\.json (cannot be read|has no list)"):
        open_image_set(settings(tmp_path))


def test_what_is_missing(tmp_path):
    make_coco(tmp_path)
    with pytest.raises(UserError, match=r"'train'\); the lists there are: val2017"):
        open_image_set(settings(tmp_path, split="train"))
    (tmp_path / "val2017/000000000005.jpg").unlink()
    with pytest.raises(UserError, match=r"image 5: the image .*0005\.jpg does not exist"):
        open_image_set(settings(tmp_path))
    with pytest.raises(UserError, match=r"data\.labels: .*x\.json does not exist"):
        open_image_set(settings(tmp_path, labels="x.json"))


def test_boxes_that_are_none(tmp_path):
    tree = changed(annotations=[annotation(9, 3, [square(1, 1, 4)], bbox=[1, 2, "3", 4])])
    config = settings(make_coco(tmp_path, tree=tree))
    with pytest.raises(UserError, match="has no bbox, expected"):
        open_boxes(config, open_image_set(config))
