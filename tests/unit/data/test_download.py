"""VOC 2012 + SBD from miniature trees, read by torchvision's own loaders."""

import os

import numpy as np
import pytest
from PIL import Image

from data_trees import annotation, write_image, write_mask, write_text
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.download import voc2012
from dist_oaa.data.images import read_mask
from dist_oaa.data.sources import open_image_set

savemat = pytest.importorskip("scipy.io").savemat

VOC = "VOCdevkit/VOC2012"
TRAIN, VAL = ["t1", "t2"], ["v1", "v2"]
SBD_TRAIN, SBD_VAL = ["s2", "t1", "v1"], ["s1", "v2"]


def sbd_mask(name: str) -> np.ndarray:
    return np.random.default_rng(ord(name[0]) + ord(name[1])).integers(0, 21, (6, 8), np.uint8)


@pytest.fixture
def out(tmp_path):
    root = tmp_path / VOC
    for name in {*TRAIN, *VAL, *SBD_TRAIN, *SBD_VAL}:
        write_image(root / f"JPEGImages/{name}.jpg")
        write_text(root / f"Annotations/{name}.xml", annotation("cat"))
    for split, names in (("train", TRAIN), ("val", VAL)):
        write_text(root / f"ImageSets/Segmentation/{split}.txt", "\n".join(names) + "\n")
        for name in names:
            write_mask(root / f"SegmentationClass/{name}.png", np.full((6, 8), 255))
    for split, names in (("train", SBD_TRAIN), ("val", SBD_VAL)):
        write_text(tmp_path / f"sbd/{split}.txt", "\n".join(names) + "\n")
        for name in names:
            write_image(tmp_path / f"sbd/img/{name}.jpg")
            (tmp_path / "sbd/cls").mkdir(exist_ok=True)
            path = tmp_path / f"sbd/cls/{name}.mat"
            savemat(path, {"GTcls": {"Segmentation": sbd_mask(name), "Boundaries": np.zeros(1)}})
    return tmp_path


def test_train_aug_is_train_and_sbd_without_val(out, capsys):
    voc2012(str(out))
    root = out / VOC
    listed = (root / "ImageSets/Segmentation/train_aug.txt").read_text().split()
    assert listed == ["s1", "s2", "t1", "t2"]
    assert sorted(os.listdir(root / "SegmentationClassAug")) == [f"{i}.png" for i in listed]
    assert sorted(os.listdir(root / "SegmentationClass")) == [
        "t1.png",
        "t2.png",
        "v1.png",
        "v2.png",
    ]
    printed = capsys.readouterr().out
    assert "train_aug: 4 images" in printed
    assert "10582" in printed  # the miniature is not complete, and says so
    image_set = open_image_set(DataConfig(root=str(root), split="train_aug"))
    assert [s.id for s in image_set.samples] == listed
    assert image_set.label_source == "Annotations/*.xml"


def test_masks_are_palette_pngs_and_voc_s_own_win(out):
    voc2012(str(out))
    folder = out / VOC / "SegmentationClassAug"
    np.testing.assert_array_equal(read_mask(folder / "s1.png"), sbd_mask("s1"))
    np.testing.assert_array_equal(read_mask(folder / "s2.png"), sbd_mask("s2"))
    np.testing.assert_array_equal(read_mask(folder / "t1.png"), np.full((6, 8), 255))
    with (
        Image.open(folder / "s1.png") as ours,
        Image.open(out / VOC / "SegmentationClass/t1.png") as official,
    ):
        assert ours.mode == "P"
        assert ours.getpalette() == official.getpalette()


def test_repeating_goes_on_where_it_stopped(out):
    voc2012(str(out))
    folder = out / VOC / "SegmentationClassAug"
    (folder / "s1.png").unlink()
    before = (folder / "s2.png").stat().st_mtime_ns
    voc2012(str(out))
    np.testing.assert_array_equal(read_mask(folder / "s1.png"), sbd_mask("s1"))
    assert (folder / "s2.png").stat().st_mtime_ns == before


def test_voc_alone(out):
    (out / "sbd").rename(out / "elsewhere")
    voc2012(str(out), augmented=False)
    assert not (out / VOC / "SegmentationClassAug").exists()


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (f"{VOC}/JPEGImages/v2.jpg", r"VOC 2012 is not complete .*v2\.jpg does not exist"),
        (f"{VOC}/SegmentationClass/t1.png", r"VOC 2012 is not complete .*t1\.png"),
        (f"{VOC}/ImageSets/Segmentation/val.txt", r"VOC 2012 is not complete .*val\.txt"),
        ("sbd/cls/s1.mat", r"SBD is not complete .*s1\.mat does not exist.*--download"),
        ("sbd/train.txt", r"SBD is not complete .*train\.txt"),
        (f"{VOC}/JPEGImages/s1.jpg", r"JPEGImages/s1\.jpg does not exist though"),
        (f"{VOC}/Annotations/s1.xml", r"Annotations/s1\.xml does not exist though"),
    ],
)
def test_incomplete_copies(out, path, sentence):
    (out / path).unlink()
    with pytest.raises(UserError, match=sentence) as caught:
        voc2012(str(out))
    assert "\n" not in str(caught.value)
    assert not (out / VOC / "ImageSets/Segmentation/train_aug.txt").exists()


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"VOC 2012 is not complete .*--download fetches it"):
        voc2012(str(tmp_path))


def test_without_a_network_one_sentence(out, monkeypatch):
    # Port 9 of this machine refuses the connection: torchvision's own download code runs.
    refused = "http://127.0.0.1:9/archive.tgz"
    monkeypatch.setattr("torchvision.datasets.SBDataset.url", refused)
    (out / "sbd").rename(out / "elsewhere")
    with pytest.raises(
        UserError, match=rf"SBD cannot be fetched from {refused} .*refused"
    ) as caught:
        voc2012(str(out), download=True)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(
        __import__("torchvision").datasets.voc.DATASET_YEAR_DICT["2012"], "url", refused
    )
    with pytest.raises(UserError, match="VOC 2012 cannot be fetched"):
        voc2012(str(out / "new"), download=True)
