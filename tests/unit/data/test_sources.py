"""The choice of the layout, and what all layouts share."""

import pytest

from data_trees import make_voc, write_image, write_text
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.problems import CollectedProblems
from dist_oaa.data.sources import LAYOUTS, open_image_set


def test_auto_takes_table_then_voc_then_folder(tmp_path):
    root = make_voc(tmp_path, {"a": "cat"})
    write_image(root / "dog/x.jpg")
    write_text(root / "t.csv", "path,classes\ndog/x.jpg,dog\n")
    config = DataConfig(root=str(root))
    assert open_image_set(config).label_source == "labels.csv"
    config.table = "t.csv"
    assert open_image_set(config).label_source == "t.csv"
    other = tmp_path / "other"
    write_image(other / "dog/x.jpg")
    assert open_image_set(DataConfig(root=str(other))).label_source == "folder names"


def test_an_absolute_table_beside_the_root(tmp_path):
    write_image(tmp_path / "photos/x.jpg")
    table = write_text(tmp_path / "t.csv", "path,classes\nx.jpg,dog\n")
    image_set = open_image_set(DataConfig(root=str(tmp_path / "photos"), table=str(table)))
    assert [s.id for s in image_set.samples] == ["x"]


def test_limit_takes_the_first_and_keeps_the_classes(tmp_path):
    root = make_voc(tmp_path, {"b": "yak", "a": "zebra", "c": "gnu"})
    whole = open_image_set(DataConfig(root=str(root)))
    first = open_image_set(DataConfig(root=str(root), limit=2))
    assert [s.id for s in first.samples] == ["b", "a"]
    assert first.class_names == whole.class_names == ("gnu", "yak", "zebra")
    assert first.labels_NC.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert first.fingerprint != whole.fingerprint


def test_the_fingerprint_survives_a_move_and_a_new_order(tmp_path):
    labels = {"b": "yak", "a": "zebra gnu"}
    one = make_voc(tmp_path / "one", labels)
    two = make_voc(tmp_path / "two", dict(reversed(labels.items())))
    prints = {open_image_set(DataConfig(root=str(root))).fingerprint for root in (one, two)}
    assert len(prints) == 1


def test_roots_and_layouts_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"data\.root is empty"):
        open_image_set(DataConfig())
    with pytest.raises(UserError, match=r"data\.root: .*none is not a folder"):
        open_image_set(DataConfig(root=str(tmp_path / "none")))
    with pytest.raises(UserError, match=r"data\.layout is 'ade', expected auto, voc, table, fol"):
        open_image_set(DataConfig(root=str(tmp_path), layout="ade"))


def test_registry_is_the_config_s_choice():
    hint = DataConfig.__dataclass_fields__["layout"].type
    assert {"auto", *LAYOUTS} == set(hint.__args__)


def test_a_collector_gets_every_problem_and_the_rest_of_the_images(tmp_path):
    root = make_voc(tmp_path, {"a": "cat", "b": "", "c": "hors", "d": "dog"})
    (root / "JPEGImages/d.jpg").unlink()
    with open(root / "ImageSets/Segmentation/train.txt", "a") as stream:
        stream.write("a\n../x\ne\n")
    problems = CollectedProblems()
    image_set = open_image_set(DataConfig(root=str(root)), problems)
    assert [(s.id, s.classes) for s in image_set.samples] == [("a", (7,)), ("b", ()), ("c", ())]
    kinds = sorted(problem.kind for problem in problems.found)
    assert kinds == [
        "duplicate",
        "missing",
        "missing",
        "outside",
        "unknown_class",
        "unlabelled",
        "unlabelled",
    ]
