"""ImageNet's layout: class folders or a file of labels, names, boxes."""

import pytest

from data_trees import write_image, write_text
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.boxes import open_boxes
from dist_oaa.data.check import check
from dist_oaa.data.sources import layout_of, open_image_set

KEYS = ("n01440764", "n02012849", "n03126707", "n09999999")
NAMES = (
    "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\nn09999999 great white shark\n"
)


def settings(root, split="train", **changes) -> DataConfig:
    return DataConfig(**{"root": str(root), "split": split} | changes)


@pytest.fixture
def root(tmp_path):
    for key in KEYS:
        write_image(tmp_path / f"d/train/{key}/{key}_1.JPEG")
    write_image(tmp_path / f"d/train/{KEYS[1]}/{KEYS[1]}_22.JPEG")
    for number, key in ((1, KEYS[2]), (2, KEYS[0])):
        write_image(tmp_path / f"d/val/{key}/ILSVRC2012_val_0000000{number}.JPEG", 20, 30)
    return tmp_path / "d"


def test_train_and_val_number_the_classes_alike(root):
    assert layout_of(settings(root)) == "imagenet"
    train, val = open_image_set(settings(root)), open_image_set(settings(root, "val"))
    assert train.class_names == val.class_names == KEYS
    assert [(s.id, s.classes) for s in train.samples][:2] == [
        ("n01440764/n01440764_1", (0,)),
        ("n02012849/n02012849_1", (1,)),
    ]
    assert [(s.id, s.classes) for s in val.samples] == [
        ("n01440764/ILSVRC2012_val_00000002", (0,)),
        ("n03126707/ILSVRC2012_val_00000001", (2,)),
    ]
    assert val.label_source == "val/ folder names"
    assert check(settings(root, "val")).problems == ()


@pytest.mark.parametrize("file", ["LOC_synset_mapping.txt", "synset_words.txt"])
def test_names_of_the_classes(root, file):
    write_text(root / file, NAMES)
    names = ("tench", "crane_n02012849", "crane_n03126707", "great_white_shark")
    val = open_image_set(settings(root, "val"))
    assert val.class_names == names
    assert val.samples[1].classes == (2,)
    # A later stage opens the data set with the names that the first one has used.
    again = open_image_set(settings(root, "val", classes=list(names)))
    assert (again.class_names, again.samples) == (names, val.samples)


def test_a_list_without_class_folders(root):
    flat = root / "test"
    for n in (1, 2):
        write_image(flat / f"ILSVRC2012_val_0000000{n}.JPEG")
    lines = "ILSVRC2012_val_00000001.JPEG n03126707\nILSVRC2012_val_00000002 n01440764\n"
    write_text(root / "labels.txt", lines)
    write_text(root / "labels.csv", "image_id,classes\n" + lines.replace(" ", ","))
    for labels in ("labels.txt", "labels.csv"):
        found = open_image_set(settings(root, "test", labels=labels))
        assert found.class_names == KEYS
        assert [(s.id, s.classes) for s in found.samples] == [
            ("ILSVRC2012_val_00000001", (2,)),
            ("ILSVRC2012_val_00000002", (0,)),
        ]
    write_image(flat / "x.JPEG")
    with pytest.raises(UserError, match=r"x\.JPEG has no line in .*labels\.txt"):
        open_image_set(settings(root, "test", labels="labels.txt"))


def xml(key: str, *corners: int) -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<annotation><object><name>{key}</name><bndbox>{box}</bndbox></object></annotation>"


@pytest.mark.parametrize("named", [False, True])
def test_boxes_of_its_annotations(root, named):
    if named:
        write_text(root / "synset_words.txt", NAMES)
    write_text(root / "boxes/val/ILSVRC2012_val_00000001.xml", xml(KEYS[2], 3, 4, 20, 18))
    write_text(root / "boxes/val/ILSVRC2012_val_00000002.xml", xml(KEYS[0], 0, 0, 30, 20))
    config = settings(root, "val", boxes="boxes/val")
    images = open_image_set(config)
    boxes = open_boxes(config, images)
    assert [boxes.of(s) for s in images.samples] == [{0: [(0, 0, 30, 20)]}, {2: [(3, 4, 20, 18)]}]


def test_mistakes(root):
    with pytest.raises(
        UserError, match=r"data\.split: .*nowhere is not a folder; those .*train, v"
    ):
        open_image_set(settings(root, "nowhere"))
    with pytest.raises(UserError, match=r"may leave the data-set root"):
        open_image_set(settings(root, "../d/val"))
    write_image(root / "val/n00000001/x.JPEG")
    with pytest.raises(UserError, match="unknown class 'n00000001'"):
        open_image_set(settings(root, "val"))
    with pytest.raises(UserError, match=r"data\.labels: .*no\.txt does not exist"):
        open_image_set(settings(root, "val", labels="no.txt"))
    write_text(root / "synset_words.txt", NAMES + "n01440764 again\n")
    with pytest.raises(UserError, match=r"synset_words\.txt, line 5 is 'n01440764 again'"):
        open_image_set(settings(root, "val"))


def test_class_folders_named_train_and_others_stay_a_folder(tmp_path):
    write_image(tmp_path / "train/a.jpg")
    write_image(tmp_path / "bus/a.jpg")
    assert layout_of(settings(tmp_path)) == "folder"
