"""`oaa data export`: what each program's own reader would find."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from dist_oaa.cli import run as oaa
from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dump_config
from dist_oaa.config.pseudo_label import PseudoLabelConfig
from dist_oaa.data.boxes import open_boxes
from dist_oaa.data.palette import voc_palette, write_label
from dist_oaa.data.sources import open_image_set
from dist_oaa.runtime.rundir import save_settings
from dist_oaa.store.mapfile import write_map

NAMES = ("cat", "dog", "dining table")
SUPERVISION = ["image-level labels: labels.csv", "saliency: none"]
RNG = np.random.default_rng(0)


@pytest.fixture
def labels_run(tmp_path) -> Path:
    """What `oaa pseudo-label` leaves, of four photographs, one of which could not be read."""
    root = tmp_path / "photos"
    images = {"b": "cat", "a": "dog", "sub/c 1": "dining table", "bad": "cat"}
    rows = ["path,classes"]
    for n, (name, classes) in enumerate(images.items()):
        path = root / f"pictures/{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = RNG.integers(0, 256, (20 + n, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        label_HW = RNG.choice([0, 1, 3, 255], (20 + n, 30)).astype(np.uint8)
        if name != "bad":
            write_label(tmp_path / f"run/labels/pictures/{name}.png", label_HW)
        rows.append(f"pictures/{name}.jpg,{classes.replace(' ', '_')}")
    (root / "table.csv").write_text("\n".join(rows) + "\n")
    names = ("cat", "dog", "dining_table")
    data = DataConfig(root=str(root), table="table.csv", classes=list(names))
    save_settings(tmp_path / "run", dump_config(PseudoLabelConfig(data=data)), names)
    summary = {"skipped": ["pictures/bad"], "supervision": SUPERVISION}
    (tmp_path / "run/labels.json").write_text(json.dumps(summary))
    return tmp_path / "run"


IDS = ["pictures/a", "pictures/b", "pictures/sub/c 1"]


def test_mmseg(labels_run, tmp_path, capsys):
    assert oaa(["data", "export", str(labels_run), str(tmp_path / "out")]) == 0
    assert "3 images are in" in capsys.readouterr().out
    out = tmp_path / "out"
    meta = json.loads((out / "metainfo.json").read_text())
    assert meta["classes"] == ["background", "cat", "dog", "dining_table"]
    assert meta["palette"] == voc_palette()[:4].tolist()
    assert meta["reduce_zero_label"] is False
    assert meta["supervision"] == SUPERVISION
    names = (out / "splits/train.txt").read_text().splitlines()
    assert names == IDS
    # As BaseSegDataset joins its paths.
    for name in names:
        image = out / "img_dir/train" / (name + meta["img_suffix"])
        label = out / "ann_dir/train" / (name + meta["seg_map_suffix"])
        assert image.read_bytes() == (tmp_path / f"photos/{name}.jpg").read_bytes()
        assert not image.is_symlink()
        with Image.open(label) as found, Image.open(labels_run / f"labels/{name}.png") as made:
            np.testing.assert_array_equal(np.asarray(found), np.asarray(made))
            assert found.size == Image.open(image).size
    # There and back: a folder of label images is what `oaa segment --labels` reads.
    assert {p.relative_to(out / "ann_dir/train").as_posix() for p in out.glob("**/*.png")} == {
        f"{name}.png" for name in IDS
    }


def test_links(labels_run, tmp_path):
    arguments = ["--images", "link", "--split", "val"]
    oaa(["data", "export", str(labels_run), str(tmp_path / "out"), *arguments])
    link = tmp_path / "out/img_dir/val/pictures/a.jpg"
    assert link.is_symlink()
    assert link.resolve() == (tmp_path / "photos/pictures/a.jpg").resolve()
    with Image.open(link) as image:
        assert image.size == (30, 21)


def test_mixed_suffixes_get_one(labels_run, tmp_path):
    photos = tmp_path / "photos"
    (photos / "pictures/a.jpg").rename(photos / "pictures/a.jpeg")
    text = (photos / "table.csv").read_text().replace("a.jpg", "a.jpeg")
    (photos / "table.csv").write_text(text)
    oaa(["data", "export", str(labels_run), str(tmp_path / "out")])
    assert json.loads((tmp_path / "out/metainfo.json").read_text())["img_suffix"] == ".jpg"
    assert (tmp_path / "out/img_dir/train/pictures/a.jpg").is_file()


def test_hf(labels_run, tmp_path):
    licence = 'cc-by-4.0 "or so": # x'
    out = tmp_path / "out"
    arguments = ["--format", "hf", "--license", licence]
    oaa(["data", "export", str(labels_run), str(out), *arguments])
    rows = [json.loads(line) for line in (out / "train/metadata.jsonl").read_text().splitlines()]
    assert [row["classes"] for row in rows] == [["dog"], ["cat"], ["dining_table"]]
    for row, name in zip(rows, IDS, strict=True):
        image, label = (out / "train" / row[key] for key in ("file_name", "label_file_name"))
        assert image.read_bytes() == (tmp_path / f"photos/{name}.jpg").read_bytes()
        assert label.read_bytes() == (labels_run / f"labels/{name}.png").read_bytes()
    _, front, text = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == licence
    assert all(line in text for line in SUPERVISION)
    assert "| 3 | dining_table |" in text


@pytest.fixture
def maps_run(tmp_path) -> Path:
    """A run with attention maps of single-label images that have boxes."""
    root = tmp_path / "birds"
    rows, boxes = ["path,classes"], []
    for n, name in enumerate(("dog", "cat", "dog")):
        path = root / f"x/{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + n, 30)).save(path)
        rows.append(f"x/{n}.jpg,{name}")
        boxes.append(f"x/{n}.jpg,{n}.0,2.4,{20.6 + n},25")
    boxes.append("x/2.jpg,0,0,5,6")
    (root / "table.csv").write_text("\n".join(rows) + "\n")
    (root / "boxes.csv").write_text("\n".join(boxes) + "\n")
    data = DataConfig(root=str(root), table="table.csv", boxes="boxes.csv")
    save_settings(tmp_path / "run", dump_config(ClassifyConfig(data=data)), ("cat", "dog"))
    for n, c in enumerate((1, 0, 1)):
        values = RNG.integers(40, 200, (8, 8), dtype=np.uint8)
        write_map(tmp_path / f"run/attention/x/{n}_{c}.png", values)
    write_map(tmp_path / "run/attention/x/0_0.png", np.zeros((8, 8), np.uint8))
    (tmp_path / "run/attention/classes.txt").write_text("cat\ndog\n")
    return tmp_path / "run"


def read_csv(path: Path) -> list[list[str]]:
    with open(path, newline="") as stream:
        return list(csv.reader(stream))


def test_wsol(maps_run, tmp_path):
    out = tmp_path / "out"
    arguments = ["--format", "wsol", "--split", "test"]
    oaa(["data", "export", str(maps_run), str(out), *arguments])
    place = out / "metadata/test"
    ids = [name for (name,) in read_csv(place / "image_ids.txt")]
    assert ids == ["x/0.jpg", "x/1.jpg", "x/2.jpg"]
    assert read_csv(place / "class_labels.txt") == [[ids[0], "1"], [ids[1], "0"], [ids[2], "1"]]
    assert read_csv(place / "image_sizes.txt") == [[ids[n], str(40 + n), "30"] for n in range(3)]
    assert read_csv(place / "localization.txt") == [
        ["x/0.jpg", "0", "2", "21", "25"],
        ["x/1.jpg", "1", "2", "22", "25"],
        ["x/2.jpg", "2", "2", "23", "25"],
        ["x/2.jpg", "0", "0", "5", "6"],
    ]
    for name, c in zip(ids, (1, 0, 1), strict=True):
        score_HW = np.load(out / f"scoremaps/{name}.npy", allow_pickle=False)
        assert (score_HW.shape, score_HW.dtype) == ((224, 224), np.float64)
        assert (score_HW.min(), score_HW.max()) == (0, 1)
        file = maps_run / f"attention/{name[:-4]}_{c}.png"
        map_SS = torch.from_numpy(np.asarray(Image.open(file)).astype(np.float64))
        wanted = torch.nn.functional.interpolate(map_SS[None, None], (224, 224), mode="bilinear")
        wanted = wanted[0, 0].numpy()
        wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
        np.testing.assert_allclose(score_HW, wanted, atol=1e-9)


def test_wsol_boxes_come_back(maps_run, tmp_path):
    out = tmp_path / "out"
    oaa(["data", "export", str(maps_run), str(out), "--format", "wsol"])
    data = DataConfig(root=str(tmp_path / "birds"), table="table.csv", boxes="boxes.csv")
    back = dataclasses.replace(data, boxes=str(out / "metadata/train/localization.txt"))
    images = open_image_set(data)
    before, after = open_boxes(data, images).by_image, open_boxes(back, images).by_image
    assert before.keys() == after.keys()
    for name, boxes in before.items():
        np.testing.assert_allclose(after[name], boxes, atol=0.5)


def test_what_wsol_cannot_hold(maps_run, tmp_path):
    arguments = ["data", "export", str(maps_run), str(tmp_path / "out"), "--format", "wsol"]
    table = tmp_path / "birds/table.csv"
    good = table.read_text()
    table.write_text(good.replace("x/1.jpg,cat", "x/1.jpg,cat dog"))
    boxes = tmp_path / "birds/boxes.csv"
    rows = "".join(f"x/{n}.jpg,1,2,9,9,{c}\n" for n, c in ((0, "dog"), (1, "cat"), (2, "dog")))
    boxes.write_text("path,x0,y0,x1,y1,class\n" + rows + "x/1.jpg,1,2,9,9,dog\n")
    with pytest.raises(UserError, match="has 2 classes, but wsolevaluation knows one"):
        oaa(arguments)
    table.write_text(good)
    boxes.write_text("path,x0,y0,x1,y1,class\n" + rows)
    (maps_run / "attention/x/1_0.png").unlink()
    with pytest.raises(UserError, match=r"has no map of the image 'x/1' and its class"):
        oaa(arguments)
    assert not (tmp_path / "out").exists()


def test_help_fits_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        oaa(["data", "export", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "--license" in "".join(lines)


def test_mistakes_leave_nothing(labels_run, tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match="is no run directory"):
        oaa(["data", "export", str(tmp_path / "photos"), out])
    with pytest.raises(UserError, match="format is 'coco' in the command line, expected one of"):
        oaa(["data", "export", str(labels_run), out, "--format", "coco"])
    for split in ("a/b", "../x", "."):
        with pytest.raises(UserError, match=r"split|names no file|may leave"):
            oaa(["data", "export", str(labels_run), out, "--split", split])
    with pytest.raises(UserError, match=r"data\.root: .*nowhere is not a folder"):
        oaa(["data", "export", str(labels_run), out, "--root", str(tmp_path / "nowhere")])
    (labels_run / "labels/pictures/a.png").unlink()
    with pytest.raises(UserError, match=r"pictures/a\.png"):
        oaa(["data", "export", str(labels_run), out])
    (labels_run / "labels.json").unlink()
    with pytest.raises(UserError, match="its labels are not complete"):
        oaa(["data", "export", str(labels_run), out])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "run"]
