"""docs/interchange.md: every command of the page runs, in the order of the page."""

import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from birds import NAMES, classifier_run, make_cub
from dist_oaa.cli import run as oaa
from dist_oaa.config.data import DataConfig
from dist_oaa.data.images import read_mask
from dist_oaa.data.sources import open_image_set
from dist_oaa.store.interchange import write_tables
from dist_oaa.store.mapfile import write_map
from dist_oaa.store.reader import StoreReader
from processes import REPOSITORY
from runs import segment_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PAGE = REPOSITORY / "docs" / "interchange.md"
SIZE = 41


def write_maps(folder: Path, image_set) -> Path:
    """Maps as a good network would make them; without masks, of any values."""
    rows, rng = [], np.random.default_rng(0)
    for sample in image_set.samples:
        for c in sample.classes:
            map_SS = rng.random((SIZE, SIZE), dtype=np.float32)
            if sample.mask is not None:
                object_HW = (read_mask(sample.mask) == c + 1).astype(np.float32)
                map_SS = cv2.resize(object_HW, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            write_map(folder / f"{sample.id}_{c}.png", map_SS / max(map_SS.max(), 1e-6))
            rows.append((sample.id, c, f"{sample.id}_{c}.png", 1, 0))
    write_tables(folder, rows, image_set.class_names)
    return folder


def photographs(folder: Path, names: list[str]) -> None:
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (n * 40, 90, 20)).save(folder / name, format="JPEG")


def make_other_data_sets(place: Path) -> None:
    """coco/ and imagenet/, as the page draws them."""
    photographs(place / "coco/val2017", ["000000000139.jpg"])
    entry = {
        "id": 1, "image_id": 139, "category_id": 1, "iscrowd": 0, "bbox": [2, 3, 20, 10],
        "segmentation": [[2, 3, 22, 3, 22, 13, 2, 13]],
    }  # fmt: skip
    image = {"id": 139, "file_name": "000000000139.jpg", "height": 30, "width": 40}
    tree = {"images": [image], "annotations": [entry], "categories": [{"id": 1, "name": "person"}]}
    (place / "coco/annotations").mkdir()
    (place / "coco/annotations/instances_val2017.json").write_text(json.dumps(tree))
    val = "ILSVRC2012_val_00000293"
    photographs(place / "imagenet", [
        "train/n01440764/n01440764_10026.JPEG", f"val/n01440764/{val}.JPEG", f"flat/{val}.JPEG",
    ])  # fmt: skip
    sides = "<xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>20</ymax>"
    (place / "imagenet/Annotations/val").mkdir(parents=True)
    (place / f"imagenet/Annotations/val/{val}.xml").write_text(
        f"<annotation><object><name>n01440764</name><bndbox>{sides}</bndbox></object></annotation>"
    )
    (place / "imagenet/LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\n")
    (place / "imagenet/flat.txt").write_text(f"{val}.JPEG n01440764\n")


def settings_tree(arguments: list[str]) -> dict:
    """`--a.b value` pairs as what a configuration file holds."""
    tree: dict = {}
    for key, value in zip(arguments[::2], arguments[1::2], strict=True):
        *groups, name = key.removeprefix("--").split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = yaml.safe_load(value)
    return tree


@pytest.fixture
def place(demo_data, tmp_path, monkeypatch) -> Path:
    """An empty folder with what the page starts from."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(demo_data)
    data = DataConfig(root="data", split="trainval")
    image_set = open_image_set(data)
    maps = write_maps(tmp_path / "made", image_set)
    oaa(["store", "import", str(maps), "runs/classify/store"])
    flags = ["--data.root", "data", "--data.split", "trainval", "--processes", "1"]
    oaa(["pseudo-label", "--maps", "runs/classify", "--run_dir", "runs/labels", *flags])
    birds = DataConfig(root=str(make_cub(tmp_path / "birds")), layout="cub", split="test")
    classifier_run(tmp_path / "runs/birds", birds)
    write_maps(tmp_path / "runs/birds/attention", open_image_set(birds))
    assert open_image_set(birds).class_names == NAMES
    arguments = segment_settings(Path("data"), Path("x"), Path("y"), optim__epochs=1)[1:]
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    kept = [x for pair in pairs if pair[0] not in ("--labels", "--run_dir") for x in pair]
    (tmp_path / "segment.yaml").write_text(yaml.safe_dump(settings_tree(kept)))
    make_other_data_sets(tmp_path)
    return tmp_path


def test_the_blocks_run(place, capsys):
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    commands, spaces = [], {}
    for language, text in blocks:
        if language == "python":
            exec(text, spaces)
            continue
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "oaa"
            assert oaa(arguments) == 0, f"{line}\n{capsys.readouterr().out}"
            commands.append(arguments[:2])
    assert len(commands) > 10
    assert "pairs compared: identical" in capsys.readouterr().out
    assert spaces["train_dataset"]["metainfo"]["classes"][0] == "background"
    for folder in ("for-mmseg", "for-hf", "for-wsol", "runs/from-psa/labels", "runs/segment"):
        assert any((place / folder).iterdir())
    assert_within_quantisation(place)


def assert_within_quantisation(place: Path) -> None:
    """From the store to IRN at the size of the photographs and back to a grid of 41.

    Held against the store's maps, resized twice by another library.
    """
    import torch

    before = {(n, c): r.map_SS for n, c, r in StoreReader(place / "runs/classify").records()}
    after = {(n, c): r.map_SS for n, c, r in StoreReader(place / "from-irn").records()}
    assert before.keys() == after.keys()
    for pair, map_SS in before.items():
        with Image.open(place / f"data/JPEGImages/{pair[0]}.jpg") as image:
            size = image.size[::-1]
        values = torch.from_numpy(map_SS.astype(np.float32))[None, None]
        full = torch.nn.functional.interpolate(values, size, mode="bilinear")
        grid = torch.nn.functional.interpolate(full, (41, 41), mode="bilinear")[0, 0].numpy()
        assert np.abs(grid - after[pair]).max() < 0.51


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target
