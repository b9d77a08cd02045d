"""Settings of the data set, the input pipeline and the augmentations."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(kw_only=True)
class AugmentConfig:
    """Random changes of a training image; each is a function of (seed, epoch, image name) alone."""

    flip: float = 0.5
    """Probability of a horizontal flip, 0 to 1."""
    jitter: list[float] = field(default_factory=lambda: [0.3, 0.3, 0.3, 0.1])
    """Strength of brightness, contrast, saturation (factor 1 +- s) and hue (turns, 0 to 0.5)."""
    jitter_probability: float = 0.5
    """Probability of the colour jitter, 0 to 1."""
    exclusive: bool = False
    """Apply either the flip or the jitter to an image, never both."""
    scale: list[float] = field(default_factory=lambda: [1.0, 1.0])
    """Range of a random scale factor of the resized image, as [low, high]."""
    crop: int = 0
    """Side of a random square crop after resizing, in pixels; 0 keeps the whole image."""

    def __post_init__(self) -> None:
        for name in ("flip", "jitter_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"data.augment.{name} is {getattr(self, name)}, expected a probability 0 to 1"
                )
        if len(self.jitter) != 4 or min(self.jitter) < 0 or max(self.jitter[:3]) > 1:
            raise ValueError(
                f"data.augment.jitter is {self.jitter}, expected four strengths "
                "[brightness, contrast, saturation, hue], the first three 0 to 1"
            )
        if self.jitter[3] > 0.5:
            raise ValueError(f"data.augment.jitter has hue {self.jitter[3]}, expected 0 to 0.5")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(
                f"data.augment.scale is {self.scale}, expected [low, high] with 0 < low <= high"
            )
        if self.crop < 0:
            raise ValueError(f"data.augment.crop is {self.crop} pixels, expected 0 or more")


@dataclass(kw_only=True)
class HoldoutConfig:
    """Images of the list that `oaa classify` and `oaa integral` leave out, so that a threshold can
    be chosen on them; which ones is a function of their names and the seed alone."""

    fraction: float = 0.0
    """Share of the images that is held out, 0 (none) to below 1; names decide, so that the share
    is met on average and not to the image."""
    seed: int = 0
    """Seed of the choice, an integer."""

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(f"data.holdout.fraction is {self.fraction}, expected 0 to below 1")


@dataclass(kw_only=True)
class DataConfig:
    """Which images, with which labels, and how they are read."""

    root: str = ""
    """Folder of the data set: of one of the layouts below, or the base of `data.table`."""
    layout: Literal["auto", "voc", "table", "folder", "cub", "coco", "imagenet"] = "auto"
    """Layout of the data set; auto takes table where `data.table` is set, then voc where
    JPEGImages exists, then cub (CUB-200-2011's files) where train_test_split.txt exists, then
    coco where annotations/instances_*.json exist, then imagenet (a folder per list, with class
    folders) where train and val exist, then folder (class folders)."""
    table: str = ""
    """CSV file with a header naming `path` (relative to the root) and `classes` (names separated
    by spaces)."""
    split: str = "train"
    """Name of the image list: ImageSets/Segmentation/<split>.txt (VOC layout), train, test or all
    (CUB layout), annotations/instances_<split>.json (COCO layout), the folder <split>/ (ImageNet
    layout); the other layouts have one list."""
    labels: str = ""
    """File of image-level labels, relative to the root: a labels.csv or a list `id c1 c2 ...`
    (COCO layout: the JSON file of instances; ImageNet layout: for a list without class folders);
    empty looks for labels.csv, then Annotations/*.xml."""
    boxes: str = ""
    """Object boxes, for evaluation alone, relative to the root or absolute: a CSV file `path,x0,y0,
    x1,y1` in pixels (a header may add a column class), or a folder of XML annotations; empty takes
    bounding_boxes.txt (CUB layout), Annotations/*.xml (VOC layout) or the JSON file (COCO
    layout)."""
    classes: list[str] = field(default_factory=list)
    """Class names in order; empty means <root>/classes.txt where it exists, else the 20 VOC
    classes where all labels are among them, else the sorted names that occur (COCO layout: in the
    order of category ids)."""
    limit: int = 0
    """Use only the first N images of the list, a count; 0 uses all."""
    resize: Literal["short_side", "square"] = "short_side"
    """short_side keeps the aspect ratio and pads the batch; square warps to size x size."""
    size: int = 224
    """Length of the short side, or of both sides, after resizing, in pixels."""
    max_aspect: float = 2.5
    """Longest allowed long side as a multiple of `size`; a more elongated image is squeezed."""
    pixel_limit: float = 80.0
    """Largest image that is decoded, in megapixels; a larger one is a bad image."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What an unreadable image does: stop the run, or be skipped, counted and listed."""
    workers: int = 1
    """Loader processes of each rank, a count; 0 loads in the training process."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation"""
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)
    """Images that are not trained on"""

    def __post_init__(self) -> None:
        if self.size < 16:
            raise ValueError(f"data.size is {self.size} pixels, expected at least 16")
        if self.max_aspect < 1:
            raise ValueError(f"data.max_aspect is {self.max_aspect}, expected at least 1")
        if self.pixel_limit <= 0:
            raise ValueError(f"data.pixel_limit is {self.pixel_limit} megapixels, expected > 0")
        for name in ("workers", "limit"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name} is {getattr(self, name)}, expected 0 or more")
