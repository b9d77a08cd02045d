"""From the settings to an image set: the registry of layouts, and what all of them share."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.coco import ANNOTATIONS, open_coco
from dist_oaa.data.cub import SPLIT_FILE, open_cub
from dist_oaa.data.folder import open_folder
from dist_oaa.data.imagenet import open_imagenet
from dist_oaa.data.problems import Problems
from dist_oaa.data.sample import ImageSet
from dist_oaa.data.table import open_table
from dist_oaa.data.voc import open_voc

LAYOUTS: dict[str, Callable[[DataConfig, Path, Problems], ImageSet]] = {
    "voc": open_voc,
    "table": open_table,
    "folder": open_folder,
    "cub": open_cub,
    "coco": open_coco,
    "imagenet": open_imagenet,
}
"""Layout name -> reader. A reader reports faults of single images to the given Problems and goes
on without them, and raises UserError where nothing can be read."""


def open_image_set(config: DataConfig, problems: Problems | None = None) -> ImageSet:
    """Open the data set that the settings describe; no image and no mask is read.

    Args:
        config: The settings; `root`, `layout`, `table`, `split`, `labels`, `classes` and `limit`
            count here.
        problems: Where faults go. By default the first one raises; with a CollectedProblems an
            image may come without any class, after its fault has been reported.

    Raises:
        UserError: the root or a list is missing, the layout is unknown, the set is empty, or (by
            default) any image has a fault.
    """
    problems = problems or Problems()
    if not config.root:
        raise UserError("data.root is empty, expected the folder of the data set")
    root = Path(config.root)
    if not root.is_dir():
        raise UserError(f"data.root: {root} is not a folder, expected the folder of the data set")
    layout = layout_of(config)
    if layout not in LAYOUTS:
        raise UserError(f"data.layout is {layout!r}, expected auto, {', '.join(LAYOUTS)}")
    image_set = LAYOUTS[layout](config, root, problems)
    if not image_set.samples:
        problems.add("layout", f"data.root: {root} has no image in its {layout} layout")
    if config.limit:
        return replace(image_set, samples=image_set.samples[: config.limit])
    return image_set


def layout_of(config: DataConfig) -> str:
    """The layout of the data set, `auto` decided by what lies in its root."""
    root = Path(config.root)
    if config.layout != "auto":
        return config.layout
    if config.table:
        return "table"
    if (root / "JPEGImages").is_dir():
        return "voc"
    if (root / SPLIT_FILE).is_file():
        return "cub"
    if next(root.glob(ANNOTATIONS.format("*")), None):
        return "coco"
    # Only both: train is also a class of VOC, and so may be a class folder's name.
    lists = (root / "train").is_dir() and (root / "val").is_dir()
    return "imagenet" if lists else "folder"
