"""Miniature data sets on disk for the tests of the data room."""

from pathlib import Path

import numpy as np
from PIL import Image

PALETTE = [value for i in range(256) for value in (i, (i * 7) % 256, (i * 31) % 256)]


def write_image(path: Path, height: int = 6, width: int = 8, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_mask(path: Path, mask: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(PALETTE)
    image.save(path)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def annotation(*names: str, difficult: int = 0) -> str:
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        "<part><name>head</name></part></object>"
        for name in names
    )
    return f"<annotation><filename>x.jpg</filename>{objects}</annotation>"


def make_voc(root: Path, labels: dict[str, str], split: str = "train") -> Path:
    """A VOC tree: JPEGs, the list in the order of `labels`, and labels.csv ({id: "c1 c2"})."""
    for n, image_id in enumerate(labels):
        write_image(root / "JPEGImages" / f"{image_id}.jpg", seed=n)
    write_text(root / "ImageSets/Segmentation" / f"{split}.txt", "\n".join(labels) + "\n")
    rows = "".join(f"{image_id},{classes}\n" for image_id, classes in labels.items())
    write_text(root / "labels.csv", "image_id,classes\n" + rows)
    return root
