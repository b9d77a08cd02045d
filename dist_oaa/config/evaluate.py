"""All settings of `oaa evaluate`."""

from dataclasses import dataclass, field
from typing import Literal

from dist_oaa.config.data import DataConfig
from dist_oaa.config.labels import CrfConfig
from dist_oaa.config.run import RuntimeConfig
from dist_oaa.config.views import ViewsConfig


@dataclass(kw_only=True)
class EvaluatedDataConfig(DataConfig):
    """Which images are measured, and how they are read."""

    split: str = "val"
    """Name of the image list ImageSets/Segmentation/<split>.txt (VOC layout only)."""
    resize: Literal["keep", "short_side", "square"] = "keep"
    """keep looks at an image at its own size; short_side as if its short side had `size` pixels;
    square at an image warped to size x size. Predictions have the size of the image in any case."""


@dataclass(kw_only=True)
class EvaluationConfig:
    """Measure a segmentation network, or a folder of label images, on images that have masks."""

    checkpoint: str = ""
    """Run directory of `oaa segment` whose published checkpoint is taken; RUN/checkpoints/best
    takes the one of checkpoint.keep_best."""
    predictions: str = ""
    """Measure the label images ID.png of this folder instead (palette or 8-bit grey: 0 background,
    class index + 1, 255 ignored), and run no network."""
    run_dir: str = "runs/evaluate"
    """Folder that receives evaluation.json and everything else the command writes."""
    data: EvaluatedDataConfig = field(default_factory=EvaluatedDataConfig)
    """Data; the run of the checkpoint gives what is not set here: always how images are read
    (resize, size, max_aspect, pixel_limit), and where data.root is empty also the data set, but
    never which split of it."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """Views of an image, whose class probabilities are averaged"""
    tile: int = 1024
    """Side of the pieces in which a larger image is looked at, in pixels."""
    overlap: int = 128
    """How far neighbouring pieces overlap, in pixels."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass (autocast); fp16 needs a GPU."""
    crf: bool = False
    """Refine each prediction by a dense CRF on the classes that it shows."""
    dense_crf: CrfConfig = field(default_factory=CrfConfig)
    """Its settings"""
    processes: int = 0
    """Processes of each rank that refine and count while the network runs, a count; 0 shares the
    cores."""
    boundary_tolerance: float = 0.0075
    """How far a predicted boundary may lie from the true one, as a share of the image's diagonal,
    above 0, at most 0.1."""
    save_predictions: bool = False
    """Write RUN/predictions/ID.png."""
    submission: str = ""
    """Folder that receives results/VOC2012/Segmentation/COMPETITION_SPLIT_cls/ID.png, as the VOC
    test server wants them; with it images need no mask. Empty writes none."""
    competition: Literal["comp5", "comp6"] = "comp5"
    """The server's name for what was trained on: comp5 is VOC alone, comp6 anything."""
    gallery: int = 6
    """Images whose predictions are drawn, a count."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Runtime"""

    def __post_init__(self) -> None:
        if self.views.combine != "mean":
            raise ValueError(f"views.combine is {self.views.combine}, expected mean")
        if self.tile < 64 or not 0 <= self.overlap < self.tile:
            raise ValueError(
                f"tile is {self.tile} and overlap {self.overlap} pixels, expected at least 64, and "
                "0 to less than tile"
            )
        for name in ("processes", "gallery"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not 0 < self.boundary_tolerance <= 0.1:
            raise ValueError(
                f"boundary_tolerance is {self.boundary_tolerance}, expected a share of the image's "
                "diagonal above 0, at most 0.1"
            )
