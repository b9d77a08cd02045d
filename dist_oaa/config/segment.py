"""All settings of `oaa segment`."""

from dataclasses import dataclass, field
from typing import Literal

from dist_oaa.config.data import AugmentConfig, DataConfig
from dist_oaa.config.model import OptimConfig
from dist_oaa.config.run import CheckpointConfig, RuntimeConfig
from dist_oaa.config.segmentation import SegmentationConfig


def segment_augment() -> AugmentConfig:
    """The usual augmentation of a segmentation network: scale, crop, flip, no jitter."""
    return AugmentConfig(scale=[0.5, 1.5], crop=321, jitter_probability=0.0)


@dataclass(kw_only=True)
class SegmentDataConfig(DataConfig):
    """Which images are trained on, whose labels they get, and how both are read."""

    resize: Literal["keep", "short_side"] = "keep"
    """keep leaves an image at its own size; short_side brings its short side to `size` and keeps
    the aspect ratio."""
    size: int = 320
    """Length of the short side after resizing, in pixels, with short_side."""
    fraction: float = 1.0
    """Share of the images that is trained on, above 0 to 1, chosen by a hash of seed and name: a
    smaller share is part of a larger one."""
    pixel_fraction: float = 0.0
    """Share of those images that is trained on with its TRUE mask instead of its label, 0 to 1,
    chosen likewise among the images that have masks (mixed supervision, Table 7 of the paper)."""
    augment: AugmentConfig = field(default_factory=segment_augment)
    """Augmentation"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ValueError(f"data.fraction is {self.fraction}, expected above 0, at most 1")
        if not 0 <= self.pixel_fraction <= 1:
            raise ValueError(f"data.pixel_fraction is {self.pixel_fraction}, expected 0 to 1")
        if self.augment.crop and self.augment.crop < 16:
            raise ValueError(
                f"data.augment.crop is {self.augment.crop} pixels, expected 0 or at least 16"
            )


@dataclass(kw_only=True)
class SegmentLossConfig:
    """What the network is trained to do."""

    loss: Literal["ce", "balanced"] = "ce"
    """ce is the cross-entropy averaged over an image's labelled pixels; balanced averages over its
    background and over its objects, and takes the mean of the two."""
    resize: Literal["logits", "labels"] = "logits"
    """Where the two meet: logits enlarges the scores to the labels' pixels; labels shrinks the
    labels to the network's cells, as the Caffe networks do, which needs less memory."""
    shards: int = 24
    """Parts into which the images are dealt, each visited by one rank, a count; a multiple of the
    number of ranks balances them. The order of the images depends on it."""

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= 4096:
            raise ValueError(f"segment.shards is {self.shards}, expected 1 to 4096")


@dataclass(kw_only=True)
class ValidationConfig:
    """How the network is measured while it trains, in one view; its masks are never trained on."""

    split: str = "val"
    """Name of the image list that is measured (VOC layout only); empty measures nothing."""
    every_epochs: int = 1
    """Epochs between measurements, a count; 0 measures after the last epoch only."""
    images: int = 200
    """Images measured after each epoch but the last, a count, the same ones each time; 0 means all.
    The last epoch always measures all."""
    gallery: int = 6
    """Images whose predictions are drawn in TensorBoard and in the run directory, a count."""
    tile: int = 1024
    """Side of the pieces in which a larger image is looked at, in pixels."""

    def __post_init__(self) -> None:
        for name in ("every_epochs", "images", "gallery"):
            if getattr(self, name) < 0:
                raise ValueError(f"evaluate.{name} is {getattr(self, name)}, expected 0 or more")
        if self.tile < 256:
            raise ValueError(f"evaluate.tile is {self.tile} pixels, expected at least 256")


@dataclass(kw_only=True)
class SegmentConfig:
    """Train a segmentation network on pseudo labels (or on any label images)."""

    labels: str = ""
    """Where the label images are: a run of `oaa pseudo-label`, or a folder with ID.png for each
    image (palette or 8-bit grey: 0 background, class index + 1, 255 ignored)."""
    run_dir: str = "runs/segment"
    """Folder that receives everything the run writes."""
    resume: bool = False
    """Continue from the last complete checkpoint of the run directory."""
    seed: int = 0
    """Seed of the order, the augmentations, the new weights and the chosen shares, an integer."""
    data: SegmentDataConfig = field(default_factory=SegmentDataConfig)
    """Data"""
    network: SegmentationConfig = field(default_factory=SegmentationConfig)
    """Segmentation network"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimisation"""
    segment: SegmentLossConfig = field(default_factory=SegmentLossConfig)
    """Loss and order"""
    evaluate: ValidationConfig = field(default_factory=ValidationConfig)
    """Measuring"""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints"""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Runtime"""
