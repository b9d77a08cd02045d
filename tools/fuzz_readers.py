"""The readers that take files from users, each as a function of the bytes of one file.

A reader gets a folder with a sound neighbourhood (pictures, lists, a store, a checkpoint), writes
the bytes over one file of it and reads. It returns where the bytes are accepted, and raises
UserError where they are refused; anything else is a defect.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.data import DataConfig
from dist_oaa.config.load import parse_config
from dist_oaa.data.boxes import open_boxes
from dist_oaa.data.demo import generate
from dist_oaa.data.images import read_image, read_mask
from dist_oaa.data.sources import open_image_set
from dist_oaa.labels.saliency import read_saliency
from dist_oaa.runtime.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dist_oaa.store.codec import ChangedRows
from dist_oaa.store.manifest import Manifest
from dist_oaa.store.object_npy import read_dictionary
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.writer import StoreWriter, prepare_store

NAME = "demo_00000"  # of the drawn scenes the one whose files are written over
MEGAPIXELS = 2.0


@dataclass(frozen=True)
class Reader:
    """One door."""

    name: str
    file: str
    """What is written over, relative to the neighbourhood."""
    read: Callable[[Path], object]
    """Reads the neighbourhood; raises UserError for a refusal."""


def scenes(folder: Path, **settings: object) -> DataConfig:
    """Settings of the drawn scenes."""
    return DataConfig(root=str(folder / "scenes"), split="train", **settings)


def settings_of(folder: Path) -> object:
    """A settings file as `oaa classify` reads it."""
    return parse_config(ClassifyConfig, "oaa classify", ["--config", str(folder / "c.yaml")])


def with_boxes(folder: Path) -> object:
    """A table of boxes."""
    config = scenes(folder, boxes=str(folder / "boxes.csv"))
    return open_boxes(config, open_image_set(config))


def checkpoint(folder: Path) -> object:
    """A checkpoint whose checksums were made to fit: an attack, not a bad disk."""
    (place,) = (folder / "checkpoints").glob("step-*")
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    sums = {n: hashlib.sha256((place / n).read_bytes()).hexdigest() for n in names}
    (place / "sha256.json").write_text(json.dumps(sums))
    return load_checkpoint(folder / "checkpoints")


def store(folder: Path) -> object:
    """Every map of a store."""
    return list(StoreReader(folder / "store").records())


CHECKPOINT = "checkpoints/step-1"
SCENES = "scenes/ImageSets/Segmentation/train.txt"
READERS = (
    Reader("photograph (JPEG)", "p.jpg", lambda f: read_image(f / "p.jpg", MEGAPIXELS)),
    Reader("photograph (PNG)", "p.png", lambda f: read_image(f / "p.png", MEGAPIXELS)),
    Reader("mask", "m.png", lambda f: read_mask(f / "m.png", MEGAPIXELS)),
    Reader("saliency map", "s.png", lambda f: read_saliency(f, "s", (20, 30))),
    Reader("labels.csv", "scenes/labels.csv", lambda f: open_image_set(scenes(f))),
    Reader("list of images", SCENES, lambda f: open_image_set(scenes(f))),
    Reader("table", "scenes/t.csv", lambda f: open_image_set(scenes(f, table="t.csv"))),
    Reader("XML annotation", f"voc/Annotations/{NAME}.xml",
           lambda f: open_image_set(DataConfig(root=str(f / "voc")))),
    Reader("COCO instances", "coco/annotations/instances_train.json",
           lambda f: open_image_set(DataConfig(root=str(f / "coco")))),
    Reader("boxes", "boxes.csv", with_boxes),
    Reader("settings (YAML)", "c.yaml", settings_of),
    Reader("checkpoint, weights", f"{CHECKPOINT}/model.safetensors", checkpoint),
    Reader("checkpoint, state", f"{CHECKPOINT}/state.json", checkpoint),
    Reader("store, shard", "store/shard-0000/data.mdb", store),
    Reader("store, manifest", "store/manifest.json", store),
    Reader("IRN dictionary", "d.npy", lambda f: read_dictionary(f / "d.npy")),
)  # fmt: skip


def neighbourhood(folder: Path) -> None:
    """Makes sound files for all readers; the file that a reader takes is its first example."""
    rng = np.random.default_rng(0)
    generate(str(folder / "scenes"), images=24, seed=0, size=64)
    pixels_HW3 = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels_HW3).save(folder / "p.jpg")
    Image.fromarray(pixels_HW3).save(folder / "p.png")
    Image.fromarray(pixels_HW3[..., 0]).save(folder / "s.png")
    mask = Image.fromarray(pixels_HW3[..., 0] % 6)
    mask.putpalette(bytes(range(256)) * 3)
    mask.save(folder / "m.png")
    lines = (folder / "scenes/labels.csv").read_text().splitlines()[1:4]
    rows = [f"JPEGImages/{line}.jpg".replace(",", ".jpg,").removesuffix(".jpg") for line in lines]
    (folder / "scenes/t.csv").write_text("path,classes\n" + "\n".join(rows) + "\n")
    make_boxes(folder)
    make_voc(folder)
    make_coco(folder)
    (folder / "c.yaml").write_text(
        "run_dir: runs/x\ndata: {root: scenes, size: 96, augment: {flip: 0.5}}\n"
        "optim: {lr: 1.0e-3, multipliers: [1, 2, 10, 20]}\naccumulate:\n  gate: strict # a word\n"
    )
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters()).state_dict()
    saved = Checkpoint(layer.state_dict(), optimizer, {"step": 1, "epoch": 0}, 1)
    save_checkpoint(folder / "checkpoints", "step-1", saved, keep=1)
    make_store(folder / "store")
    found = {"keys": np.array([0, 2]), "high_res": rng.random((2, 4, 5), dtype=np.float32)}
    np.save(folder / "d.npy", np.array(found, dtype=object), allow_pickle=True)


def make_boxes(folder: Path) -> None:
    """One box for each class of the images of the list, in pixels."""
    images = open_image_set(scenes(folder))
    rows = [f"{s.id},0,0,9,9,{images.class_names[c]}" for s in images.samples for c in s.classes]
    (folder / "boxes.csv").write_text("path,x0,y0,x1,y1,class\n" + "\n".join(rows) + "\n")


def make_voc(folder: Path) -> None:
    """One image with an annotation in XML."""
    root = folder / "voc"
    for part in ("JPEGImages", "Annotations", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    (root / f"JPEGImages/{NAME}.jpg").write_bytes((folder / "p.jpg").read_bytes())
    (root / "ImageSets/Segmentation/train.txt").write_text(f"{NAME}\n")
    (root / f"Annotations/{NAME}.xml").write_text(
        "<annotation><object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
    )


def make_coco(folder: Path) -> None:
    """One image with an instance."""
    root = folder / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "train").mkdir()
    (root / "train/1.jpg").write_bytes((folder / "p.jpg").read_bytes())
    about = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 20, "width": 30}],
        "categories": [{"id": 7, "name": "dog"}],
        "annotations": [{"id": 3, "image_id": 1, "category_id": 7, "iscrowd": 0, "area": 25.0,
                         "bbox": [1, 1, 5, 5], "segmentation": [[1, 1, 6, 1, 6, 6]]}],
    }  # fmt: skip
    (root / "annotations/instances_train.json").write_text(json.dumps(about))


def make_store(folder: Path) -> None:
    """Three maps of 5 x 5 cells in one shard, committed twice."""
    manifest = Manifest(5, "uint8", "max", 1, ("a", "b"), "f", ("i", "j"), ((0,), (0, 1)))
    writer = StoreWriter(folder, prepare_store(folder, manifest, resume=False), 0, 1, 0)
    rows = np.arange(3)
    maps = np.random.default_rng(1).integers(0, 256, (3, 2, 5, 5), dtype=np.uint8)
    for generation in (1, 2):
        counts = np.full(3, generation, np.int32)
        writer.commit(generation, ChangedRows(rows, maps, counts, np.zeros(3, bool)))
    writer.close()


def first_example(reader: Reader, folder: Path) -> bytes:
    """The sound file that the mutations begin with."""
    return (folder / reader.file).read_bytes()
