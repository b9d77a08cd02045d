"""Writes the demo data set: picture-book creatures in VOC layout, with labels and exact masks.

All creatures wear the same coats and only a small head tells the class. A classifier's attention
therefore starts on the head, while the mask covers the whole creature: what online attention
accumulation is for. `demo_scene` paints, this file plans the splits and writes the folder.
"""

import csv
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dist_oaa import __version__
from dist_oaa.config.errors import UserError
from dist_oaa.data.demo_creatures import CLASSES
from dist_oaa.data.demo_scene import IGNORE, Scene, render

JPEG_QUALITY = 92
TITLE = "# Demo data of dist_oaa"
ENTRIES = {
    "JPEGImages",
    "SegmentationClass",
    "ImageSets",
    "labels.csv",
    "classes.txt",
    "README.md",
}


@dataclass(frozen=True)
class DemoSummary:
    """What `generate` wrote.

    Attributes:
        out: the folder.
        images: images in all, a count.
        train: images of the training list, a count.
        val: images of the validation list, a count.
        images_per_class: class name -> images that show it, a count.
    """

    out: str
    images: int
    train: int
    val: int
    images_per_class: dict[str, int]


def generate(
    out: str, images: int = 240, seed: int = 0, size: int = 192, force: bool = False
) -> DemoSummary:
    """Write a small data set of painted scenes in VOC layout, the same bytes each time.

    Args:
        out: Folder to write; it must be new or empty.
        images: Number of images, a count of at least 3; two thirds go to train, one third to val,
            and from 18 images on every class is in both.
        seed: Seed of all that is random, an integer of 0 or more.
        size: Length of an image's long side, about, in pixels, 64 to 1024.
        force: Replace the folder where it holds demo data already.

    Returns:
        The counts of what was written.

    Raises:
        UserError: an argument is out of range, or `out` holds something that must stay.
    """
    _check_arguments(out, images, seed, size)
    target = Path(out).resolve()
    _check_target(target, force)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-")
    except OSError as error:
        raise UserError(
            f"out: {target.parent} cannot be written ({error.strerror}), expected a folder in "
            "which the demo data may be made"
        ) from error
    # Everything is written beside the target and moved at the end: an interrupted run leaves the
    # target as it was.
    with staging as folder:
        fresh = Path(folder) / "fresh"
        summary = _write(fresh, str(target), images, seed, size)
        _swap(fresh, target, Path(folder) / "replaced")
    return summary


def primary_class(index: int) -> int:
    """Return the class (from 0) that image `index` shows for certain.

    Both lists walk through the classes in turn, so each class is in each list early on.
    """
    place_in_list = index // 3 if in_val(index) else 2 * (index // 3) + index % 3
    return place_in_list % len(CLASSES)


def in_val(index: int) -> bool:
    """Say whether image `index` belongs to the validation list: every third does."""
    return index % 3 == 2


def voc_palette() -> np.ndarray:
    """Return VOC's palette (256, 3), uint8: the bits of an index, dealt to R, G and B in turn."""
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return palette


def _check_arguments(out: str, images: int, seed: int, size: int) -> None:
    if not out:
        raise UserError("out is empty, expected the name of a folder")
    if images < 3:
        raise UserError(f"images is {images}, expected at least 3")
    if seed < 0:
        raise UserError(f"seed is {seed}, expected 0 or more")
    if not 64 <= size <= 1024:
        raise UserError(f"size is {size} pixels, expected 64 to 1024")


def _check_target(target: Path, force: bool) -> None:
    """Raise UserError where writing would destroy anything but demo data given up by `force`."""
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"out: {target} is a file, expected a new or empty folder")
    entries = {entry.name for entry in target.iterdir()}
    if not entries:
        return
    if not force:
        raise UserError(
            f"out: {target} is not empty, expected a new or empty folder (force replaces demo data)"
        )
    readme = target / "README.md"
    ours = readme.is_file() and readme.read_text("utf-8", errors="replace").startswith(TITLE)
    if not ours or not entries <= ENTRIES:
        raise UserError(
            f"out: {target} holds files that are not demo data, expected a folder that this "
            "command wrote (force replaces nothing else)"
        )


def _swap(fresh: Path, target: Path, replaced: Path) -> None:
    """Put `fresh` in the place of `target`; what was there goes to `replaced`."""
    existed = target.exists()
    if existed:
        os.rename(target, replaced)
    try:
        os.rename(fresh, target)
    except BaseException:
        if existed:
            os.rename(replaced, target)
        raise


def _write(folder: Path, out: str, images: int, seed: int, size: int) -> DemoSummary:
    """Write the whole data set into the new `folder`."""
    lists = folder / "ImageSets" / "Segmentation"
    for made in (folder / "JPEGImages", folder / "SegmentationClass", lists):
        made.mkdir(parents=True)
    labels: dict[str, list[str]] = {}
    for index in range(images):
        scene = render(seed, index, size, primary_class(index))
        name = f"demo_{index:05d}"
        _save(scene, folder, name)
        labels[name] = _classes_of(scene)
    names = list(labels)
    val = [name for index, name in enumerate(names) if in_val(index)]
    train = [name for index, name in enumerate(names) if not in_val(index)]
    for split, members in (("train", train), ("val", val), ("trainval", names)):
        _write_lines(lists / f"{split}.txt", members)
    _write_lines(folder / "classes.txt", CLASSES)
    with open(folder / "labels.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image_id", "classes"])
        writer.writerows([name, " ".join(classes)] for name, classes in labels.items())
    (folder / "README.md").write_text(_readme(images, seed, size), encoding="utf-8")
    shown = [name for classes in labels.values() for name in classes]
    return DemoSummary(
        out=out,
        images=images,
        train=len(train),
        val=len(val),
        images_per_class={name: shown.count(name) for name in CLASSES},
    )


def _save(scene: Scene, folder: Path, name: str) -> None:
    # Full colour resolution (subsampling 0): small saturated heads keep their edges.
    Image.fromarray(scene.image_HW3).save(
        folder / "JPEGImages" / f"{name}.jpg", quality=JPEG_QUALITY, subsampling=0
    )
    mask = Image.fromarray(scene.mask_HW)
    mask.putpalette(voc_palette().tobytes())
    mask.save(folder / "SegmentationClass" / f"{name}.png")


def _classes_of(scene: Scene) -> list[str]:
    return [CLASSES[v - 1] for v in np.unique(scene.mask_HW).tolist() if v not in (0, IGNORE)]


def _write_lines(path: Path, lines: list[str] | tuple[str, ...]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _readme(images: int, seed: int, size: int) -> str:
    # No path and no date: the same arguments give the same bytes anywhere.
    return f"""{TITLE}

Painted scenes for weakly supervised segmentation. Written by dist_oaa {__version__} with

    oaa data demo OUT --images {images} --seed {seed} --size {size}

The same command of the same version gives the same scenes; image i depends on the seed and i alone.

- `JPEGImages/` the images, `SegmentationClass/` the masks: 0 background, then the classes in the
  order of `classes.txt`, 255 a thin contour that evaluation ignores.
- `ImageSets/Segmentation/` the lists: two thirds train, one third val.
- `labels.csv` the classes that each image shows, for training without masks.

The classes are {", ".join(CLASSES)}.
All wear the same patterned coats in the same colours; a head of about an eighth of the creature
tells the class.
"""
