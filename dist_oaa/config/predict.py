"""All settings of `oaa predict`."""

from dataclasses import dataclass, field
from typing import Literal

from dist_oaa.config.labels import CrfConfig
from dist_oaa.config.run import RuntimeConfig
from dist_oaa.config.views import ViewsConfig

AS_TRAINED = -1


@dataclass(kw_only=True)
class PredictConfig:
    """Apply a trained network to photographs: masks and class areas by a segmentation network,
    classes and boxes by a classifier; overlays by both."""

    checkpoint: str = ""
    """Run directory of `oaa segment` (or `oaa classify`) whose published checkpoint is taken
    (RUN/checkpoints/best: the one of checkpoint.keep_best); usually the first word of the
    command."""
    images: list[str] = field(default_factory=list)
    """Image files and folders (with all that is below them); usually the other words. Images are
    turned as their EXIF orientation says."""
    out: str = "runs/predict"
    """New or empty folder that receives masks/NAME.png (by a segmentation network),
    overlays/NAME.png and predictions.json."""
    size: int = AS_TRAINED
    """Short side in pixels at which the network looks at an image (views.scales are factors on
    it); 0 is the image's own, -1 that of the training: its data.size, or the image's own where
    its data.resize is keep. Results have the image's own size in any case."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """Views of an image, whose class probabilities are averaged"""
    tile: int = 1024
    """Side of the pieces in which a larger view is looked at, in pixels."""
    overlap: int = 128
    """How far neighbouring pieces overlap, in pixels."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass (autocast); fp16 needs a GPU."""
    crf: bool = False
    """Refine each prediction by a dense CRF on the classes that it shows."""
    dense_crf: CrfConfig = field(default_factory=CrfConfig)
    """Its settings"""
    box_threshold: float = 0.2
    """Of a classifier: share of the attention map's maximum above which a pixel belongs to the
    object, 0 to below 1."""
    localized: str = ""
    """Run directory of `oaa localize` on this classifier, whose frozen threshold and components
    take the place of box_threshold."""
    overlays: bool = True
    """Draw each image with its classes in translucent colours, and their names below it."""
    overlay_size: int = 1600
    """Longest side of the photograph in an overlay, in pixels; larger ones are shrunk, 0 never."""
    pixel_limit: float = 80.0
    """Largest image that is decoded, in megapixels; a larger one is a bad image. One takes about
    12 bytes of memory for each pixel and class."""
    on_bad_image: Literal["skip", "stop"] = "skip"
    """What an unreadable image does: be skipped, counted and listed, or stop the command."""
    processes: int = 0
    """Processes of each rank that refine, draw and write while the network looks at the next
    image, a count; 1 does it in turn with the network, 0 shares the cores where there are many
    images."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Runtime"""

    def __post_init__(self) -> None:
        if self.views.combine != "mean":
            raise ValueError(f"views.combine is {self.views.combine}, expected mean")
        if self.size != AS_TRAINED and self.size != 0 and self.size < 16:
            raise ValueError(f"size is {self.size} pixels, expected -1, 0 or at least 16")
        if self.tile < 64 or not 0 <= self.overlap <= self.tile // 2:
            raise ValueError(
                f"tile is {self.tile} and overlap {self.overlap} pixels, expected at least 64, and "
                "0 to half of tile"
            )
        if self.overlay_size and self.overlay_size < 64:
            raise ValueError(
                f"overlay_size is {self.overlay_size} pixels, expected 0 or at least 64"
            )
        if self.pixel_limit <= 0:
            raise ValueError(f"pixel_limit is {self.pixel_limit} megapixels, expected > 0")
        if not 0 <= self.box_threshold < 1:
            raise ValueError(f"box_threshold is {self.box_threshold}, expected 0 to below 1")
        if self.processes < 0:
            raise ValueError(f"processes is {self.processes}, expected 0 or more")
