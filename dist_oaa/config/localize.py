"""All settings of `oaa localize`."""

from dataclasses import dataclass, field
from typing import Literal

from dist_oaa.config.data import DataConfig
from dist_oaa.config.run import RuntimeConfig
from dist_oaa.config.views import ViewsConfig


@dataclass(kw_only=True)
class LocalizeDataConfig(DataConfig):
    """Which images are measured, and how they are read."""

    split: str = "test"
    """List that is measured: ImageSets/Segmentation/<split>.txt (VOC layout), or train, test or
    all (CUB layout)."""


@dataclass(kw_only=True)
class CropsConfig:
    """What of an image its class is predicted from; the attention map is of the whole image in
    any case."""

    kind: Literal["none", "centre", "ten"] = "none"
    """none predicts from the views of the whole image, centre from a crop in the middle, ten from
    the mean probability over four corners, the centre, and the mirror images of these five."""
    resize: int = 256
    """What takes the place of data.size before cropping, in pixels."""
    size: int = 224
    """Side of a crop in pixels, rounded to a multiple of the network's stride."""

    def __post_init__(self) -> None:
        if not 16 <= self.size <= self.resize:
            raise ValueError(
                f"crops.size is {self.size} and crops.resize {self.resize} pixels, expected at "
                "least 16, and a crop no larger than the resized image"
            )

    @property
    def count(self) -> int:
        """Crops of an image."""
        return {"none": 0, "centre": 1, "ten": 10}[self.kind]

    def phrase(self) -> str:
        """One phrase for reports."""
        if self.kind == "none":
            return "the whole image"
        name = "the centre crop" if self.kind == "centre" else "ten crops"
        return f"{name} of {self.size} px, resized to {self.resize} px"


@dataclass(kw_only=True)
class ThresholdConfig:
    """The share of a map's maximum above which a pixel belongs to the object; always one and the
    same for all images of a list."""

    choose: Literal["validation", "fixed"] = "validation"
    """validation tries `count` thresholds on a validation list and freezes the best; fixed takes
    `value`. Neither looks at the boxes of the list that is reported."""
    value: float = 0.2
    """The fixed share, 0 to below 1."""
    count: int = 100
    """Thresholds tried, a count, evenly spaced in [0, 1)."""
    split: str = ""
    """Name of the validation list, as data.split; empty takes the images that data.holdout kept
    out of the training of the checkpoint."""
    boxes: str = ""
    """Boxes of the validation list, as data.boxes; empty takes data.boxes."""

    def __post_init__(self) -> None:
        if not 0 <= self.value < 1:
            raise ValueError(f"threshold.value is {self.value}, expected 0 to below 1")
        if not 2 <= self.count <= 1000:
            raise ValueError(f"threshold.count is {self.count}, expected 2 to 1000")


@dataclass(kw_only=True)
class LocalizeConfig:
    """Predict the class and the box of each image by a trained classifier, and measure both."""

    checkpoint: str = ""
    """Run directory of `oaa classify` (or `oaa integral`) whose published checkpoint is taken;
    RUN/checkpoints/best takes the one of checkpoint.keep_best."""
    run_dir: str = "runs/localize"
    """Folder that receives boxes.json and everything else the command writes."""
    data: LocalizeDataConfig = field(default_factory=LocalizeDataConfig)
    """Data; the run of the checkpoint gives what is not set here: always how images are read
    (resize, size, max_aspect, pixel_limit), and where data.root is empty also the data set, but
    never which split of it. data.holdout has no effect here: that of the run counts."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """Views of an image, from which its attention map is made"""
    crops: CropsConfig = field(default_factory=CropsConfig)
    """What the class is predicted from"""
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)
    """From map to box"""
    components: Literal["largest", "all"] = "largest"
    """What of the pixels above the threshold the box encloses: the largest connected component
    (8 neighbours), or all of them."""
    activation: Literal["auto", "cam", "sigmoid"] = "auto"
    """What the network's class maps F become: cam is ReLU(F) / max F (Eq. 2 of the papers), sigmoid
    is 1 / (1 + exp(-F)); auto takes what the checkpoint's run was trained for."""
    map_size: int = 41
    """Cells along each side of a map, a count: a map covers the whole image whatever its aspect."""
    batch_size: int = 8
    """Images of one forward pass on each rank, a count, at most 16; the boxes are the same at any
    world size."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass (autocast); fp16 needs a GPU."""
    gallery: int = 12
    """Images that are drawn with their boxes, a count."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Runtime"""

    def __post_init__(self) -> None:
        if not 1 <= self.map_size <= 1024:
            raise ValueError(f"map_size is {self.map_size} cells, expected 1 to 1024")
        if not 1 <= self.batch_size <= 16:
            raise ValueError(f"batch_size is {self.batch_size}, expected 1 to 16")
        if self.gallery < 0:
            raise ValueError(f"gallery is {self.gallery}, expected 0 or more")
