"""`oaa data check`: all problems in one pass, and a report that fits a terminal."""

import io

import numpy as np
import pytest
from rich.console import Console

from data_trees import make_voc, write_image, write_mask, write_text
from dist_oaa.config.data import DataConfig
from dist_oaa.data.check import check, check_command, print_report


@pytest.fixture
def good(tmp_path):
    root = make_voc(tmp_path / "data", {"a": "cat", "b": "dog cat", "c": "train"})
    write_image(root / "JPEGImages/b.jpg", height=10, width=30)
    write_mask(root / "SegmentationClass/b.png", np.full((10, 30), 20))
    write_mask(root / "SegmentationClass/c.png", np.full((6, 8), 255))
    return root


def printed(report, width=80):
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=width))
    return stream.getvalue()


def test_good_data(good):
    report = check(DataConfig(root=str(good)))
    assert report.ok
    assert (report.images, report.masks, report.label_source) == (3, 2, "labels.csv")
    assert {k: v for k, v in report.class_counts.items() if v} == {"cat": 2, "dog": 1, "train": 1}
    assert len(report.class_counts) == 20
    assert report.heights == (6, 10, 6)
    assert report.widths == (8, 30, 8)
    text = printed(report)
    assert "8 / 8 / 30 pixels" in text
    assert "cat 2" in text
    assert "No problems found." in text


def test_every_problem_in_one_pass(good, tmp_path):
    images, masks = good / "JPEGImages", good / "SegmentationClass"
    names = ["empty", "truncated", "corrupt", "bomb", "small", "index", "rgb", "bad"]
    for n, name in enumerate(names):
        write_image(images / f"{name}.jpg", 32, 32, seed=n)
    (images / "empty.jpg").write_bytes(b"")
    (images / "truncated.jpg").write_bytes((images / "small.jpg").read_bytes()[:700])
    (images / "corrupt.jpg").write_bytes(b"no image")
    write_image(images / "bomb.jpg", 100, 200)
    write_mask(masks / "small.png", np.zeros((32, 31)))
    write_mask(masks / "index.png", np.full((32, 32), 21))
    write_image(masks / "rgb.png", 32, 32)
    write_text(masks / "bad.png", "no mask")
    (images / "link.jpg").symlink_to(write_image(tmp_path / "else.jpg"))
    entries = [*names, "link", "gone", "a", "../up", "nolabel"]
    write_image(images / "nolabel.jpg")
    with open(good / "ImageSets/Segmentation/train.txt", "a") as stream:
        stream.write("".join(f"{entry}\n" for entry in entries))
    with open(good / "labels.csv", "a") as stream:
        stream.write("".join(f"{n},cat\n" for n in [*names, "link"]) + "gone,hors\n")
    report = check(DataConfig(root=str(good), pixel_limit=0.019))
    assert not report.ok
    by_kind = {}
    for problem in report.problems:
        by_kind.setdefault(problem.kind, []).append(problem.message)
    assert {kind: len(messages) for kind, messages in by_kind.items()} == {
        "outside": 2,
        "missing": 1,
        "corrupt": 6,
        "duplicate": 1,
        "unlabelled": 1,
        "unknown_class": 1,
        "mask_size": 1,
        "mask_index": 1,
    }
    corrupt = " ".join(by_kind["corrupt"])
    for name in ("empty.jpg", "truncated.jpg", "corrupt.jpg", "bomb.jpg", "rgb.png", "bad.png"):
        assert name in corrupt
    assert "small.png has 31 x 32 pixels, its image 32 x 32" in by_kind["mask_size"][0]
    assert "index.png has the unknown index 21, expected 0" in by_kind["mask_index"][0]
    text = " ".join(printed(report, width=1000).split())
    for problem in report.problems:
        assert problem.message in text
    assert "14 problems found." in text


def test_report_fits_80_columns_and_takes_names_literally(good):
    name = "[bold]" + "very_long_name_" * 9
    write_image(good / f"JPEGImages/{name}.jpg").write_bytes(b"")
    with open(good / "ImageSets/Segmentation/train.txt", "a") as stream:
        stream.write(name + "\n")
    text = printed(check(DataConfig(root=str(good))))
    assert max(map(len, text.splitlines())) <= 80
    assert "[bold]" in text


def test_exit_codes(good, capsys):
    assert check_command(DataConfig(root=str(good))) == 0
    assert check_command(DataConfig(root=str(good), split="none")) == 2
    assert "Data set cannot be opened: 1" in capsys.readouterr().out
    (good / "JPEGImages/a.jpg").write_bytes(b"")
    assert check_command(DataConfig(root=str(good))) == 2
    assert "1 problem found." in capsys.readouterr().out
