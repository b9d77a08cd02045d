"""Boxes of all sources, worked by hand, and what is said of those that cannot be used."""

from pathlib import Path

import pytest
from PIL import Image

from birds import make_cub
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.boxes import Box, ObjectBoxes, open_boxes
from dist_oaa.data.check import check
from dist_oaa.data.problems import CollectedProblems
from dist_oaa.data.sources import open_image_set

CORNERS = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"


def annotation(*objects: tuple) -> str:
    """(class name, xmin, ymin, xmax, ymax) of each object; parts have boxes that do not count."""
    texts = [
        f"<object><name>{name}</name><bndbox>{CORNERS.format(*corners)}</bndbox>"
        f"<part><name>head</name><bndbox>{CORNERS.format(1, 1, 2, 2)}</bndbox></part></object>"
        for name, *corners in objects
    ]
    return f"<annotation>{''.join(texts)}</annotation>"


@pytest.fixture
def birds(tmp_path) -> Path:
    """Four images of 20 x 10 pixels in the CUB layout."""
    root = make_cub(tmp_path / "cub", train=2, test=2)
    for path in root.glob("images/*/*.jpg"):
        Image.new("RGB", (20, 10)).save(path)
    (root / "bounding_boxes.txt").write_text(
        "1 0.0 0.0 20.0 10.0\n2 3.0 2.0 5.0 4.0\n3 1 1 2 2\n4 1 1 2 2\n"
    )
    return root


@pytest.fixture
def folders(tmp_path) -> Path:
    """Two class folders, one image of 20 x 10 pixels each."""
    root = tmp_path / "folders"
    for name in ("cat/a", "dog/b"):
        (root / name).parent.mkdir(parents=True)
        Image.new("RGB", (20, 10)).save(root / f"{name}.png")
    return root


def boxes_of(root: Path, **changes: object) -> ObjectBoxes:
    config = DataConfig(root=str(root), **changes)
    return open_boxes(config, open_image_set(config))


def test_cub_boxes_are_corner_and_extent(birds):
    found = boxes_of(birds)
    assert found.source == "bounding_boxes.txt"
    assert found.by_image == {
        "002.Blackbird/Bird_0001": (Box(1, 0, 0, 20, 10),),
        "003.Wren/Bird_0002": (Box(2, 3, 2, 8, 6),),
    }
    assert found.clipped == 0


def test_voc_boxes_count_pixels_from_one_and_include_both_corners(tmp_path):
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "ImageSets/Segmentation", "Annotations"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(root / "JPEGImages/a.jpg")
    (root / "ImageSets/Segmentation/train.txt").write_text("a\n")
    # The first is a single pixel, the second the whole image.
    objects = [("cat", 5, 3, 5, 3), ("dog", 1, 1, 20, 10), ("cat", 1, 1, 2, 2)]
    (root / "Annotations/a.xml").write_text(annotation(*objects))
    cat, dog = 7, 11
    found = boxes_of(root)
    assert found.by_image == {
        "a": (Box(cat, 4, 2, 5, 3), Box(dog, 0, 0, 20, 10), Box(cat, 0, 0, 2, 2))
    }
    (sample,) = open_image_set(DataConfig(root=str(root))).samples
    assert found.of(sample) == {cat: [(4, 2, 5, 3), (0, 0, 2, 2)], dog: [(0, 0, 20, 10)]}


@pytest.mark.parametrize(
    "text",
    [
        "cat/a.png,1,2,3,4\ncat/a.png,5,6,7,8\ndog/b.png,0,0,20,10\n",
        "x0,path,y0,y1,x1\n1,cat/a.png,2,4,3\n5,cat/a,6,8,7\n0,dog/b,0,10,20\n",
        "path,x0,y0,x1,y1,class\ncat/a,1,2,3,4,cat\ncat/a,5,6,7,8,\ndog/b,0,0,20,10,dog\n",
    ],
)
def test_csv_corners_are_taken_as_they_stand(folders, tmp_path, text):
    (folders / "boxes.csv").write_text(text)
    expected = {"cat/a": (Box(0, 1, 2, 3, 4), Box(0, 5, 6, 7, 8)), "dog/b": (Box(1, 0, 0, 20, 10),)}
    assert boxes_of(folders, boxes="boxes.csv").by_image == expected
    (tmp_path / "elsewhere.csv").write_text(text)
    assert boxes_of(folders, boxes=str(tmp_path / "elsewhere.csv")).by_image == expected


def test_xml_beside_class_folders_by_path_or_by_name(folders, tmp_path):
    (tmp_path / "xml/cat").mkdir(parents=True)
    (tmp_path / "xml/cat/a.xml").write_text(annotation(("cat", 1, 2, 3, 4)))
    (tmp_path / "xml/b.xml").write_text(annotation(("dog", 0, 0, 20, 10)))
    found = boxes_of(folders, boxes=str(tmp_path / "xml"))
    assert found.by_image == {"cat/a": (Box(0, 1, 2, 3, 4),), "dog/b": (Box(1, 0, 0, 20, 10),)}


def test_a_box_is_clipped_by_up_to_a_pixel_and_counted(folders):
    (folders / "boxes.csv").write_text("cat/a.png,-0.5,-1,20.5,11\ndog/b.png,1,1,20,10\n")
    found = boxes_of(folders, boxes="boxes.csv")
    assert found.by_image["cat/a"] == (Box(0, 0, 0, 20, 10),)
    assert found.clipped == 1


def test_a_box_of_another_split_is_passed_over(birds):
    assert set(boxes_of(birds, split="test").by_image) == {
        "001.Auk/Bird_0003",
        "002.Blackbird/Bird_0004",
    }


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("cat/a.png,5,1,5,4", "line 1: the box 5 1 5 4 has no area, expected x0 < x1"),
        ("cat/a.png,5,4,8,1", "line 1: the box 5 4 8 1 has no area"),
        ("cat/a.png,nan,1,8,4", "has no area"),
        ("cat/a.png,1,1,22,4", "lies outside its image 'cat/a' of 20 x 10 pixels"),
        ("cat/a.png,-2,1,8,4", "lies outside its image"),
        ("cat/a.png,20.2,1,20.9,4", "lies outside its image"),
        ("cat/a.png,1,1,8,four", "is no box, expected numbers"),
        ("cat/a.png,1,1,8", "line 1: 4 cells, expected path,x0,y0,x1,y1"),
        ("cat/c.png,1,1,8,4", "line 1 names the unknown image 'cat/c.png'"),
        ("../a.png,1,1,8,4", "line 1: '../a.png' may leave the data-set root"),
        ("", "boxes.csv: the image 'cat/a' has no box of its class 'cat'"),
    ],
)
def test_faults_name_file_and_line(folders, line, match):
    (folders / "boxes.csv").write_text(f"{line}\ndog/b.png,1,1,8,4\n")
    with pytest.raises(UserError, match=match) as caught:
        boxes_of(folders, boxes="boxes.csv")
    assert "\n" not in str(caught.value)


def test_a_class_that_the_image_does_not_have(folders):
    (folders / "boxes.csv").write_text("path,x0,y0,x1,y1,class\ncat/a.png,1,1,8,4,dog\n")
    with pytest.raises(UserError, match="class 'dog', but the image 'cat/a' is labelled cat"):
        boxes_of(folders, boxes="boxes.csv")


def test_several_classes_need_a_column(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("path,classes\na.png,cat dog\n")
    (tmp_path / "b.csv").write_text("a.png,1,1,8,4\n")
    with pytest.raises(UserError, match=r"has 2 classes, so its boxes need one.*column class"):
        boxes_of(tmp_path, table="t.csv", boxes="b.csv")


def test_no_source_and_a_missing_file(folders):
    with pytest.raises(UserError, match=r"data.boxes is empty and .* \(folder layout\)"):
        boxes_of(folders)
    with pytest.raises(UserError, match=r"data.boxes: .*none.csv does not exist"):
        boxes_of(folders, boxes="none.csv")


def test_an_annotation_that_is_no_xml_or_has_no_box(folders, tmp_path):
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml/b.xml").write_text(annotation(("dog", 0, 0, 20, 10)))
    for text in ("<annotation>", annotation(("cat", 1, 2, 3, ""))):
        (tmp_path / "xml/a.xml").write_text(text)
        with pytest.raises(UserError, match=r"a.xml cannot be read as an annotation with boxes"):
            boxes_of(folders, boxes=str(tmp_path / "xml"))


def test_all_faults_in_one_pass(birds):
    (birds / "bounding_boxes.txt").write_text("1 0 0 0 4\n9 1 1 2 2\n4 1 1\n3 1 1 30 2\n")
    config = DataConfig(root=str(birds), split="all")
    problems = CollectedProblems()
    open_boxes(config, open_image_set(config), problems)
    kinds = [problem.kind for problem in problems.found]
    assert sorted(kinds) == ["box"] * 3 + ["missing"] + ["unboxed"] * 4
    report = check(config)
    assert [problem.kind for problem in report.problems] == kinds
    assert report.boxes.startswith("0 on 0 images")
