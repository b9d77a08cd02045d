"""All settings of `oaa attend`."""

from dataclasses import dataclass, field
from typing import Literal

from dist_oaa.config.data import DataConfig
from dist_oaa.config.run import EvaluateConfig, RuntimeConfig
from dist_oaa.config.views import ViewsConfig


@dataclass(kw_only=True)
class AttendConfig:
    """Write the attention maps of a trained classifier over a data set, and measure them."""

    checkpoint: str = ""
    """Run directory of `oaa classify` (or `oaa integral`) whose published checkpoint is taken;
    RUN/checkpoints/best takes the one of checkpoint.keep_best."""
    run_dir: str = "runs/attend"
    """Folder that receives attention/ and everything else the command writes."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data; the run of the checkpoint gives what is not set here: always how images are read
    (resize, size, max_aspect, pixel_limit), and where data.root is empty also which images."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """Views of an image"""
    activation: Literal["auto", "cam", "sigmoid"] = "auto"
    """What the network's class maps F become: cam is ReLU(F) / max F (Eq. 2 of the papers), sigmoid
    is 1 / (1 + exp(-F)); auto takes sigmoid for a run of `oaa integral`, else cam."""
    map_size: int = 41
    """Cells along each side of a map, a count: a map covers the whole image whatever its aspect."""
    batch_size: int = 8
    """Images of one forward pass on each rank, a count, at most 16; the maps are the same at any
    world size."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass (autocast); fp16 needs a GPU."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Measuring; all images that have masks are measured"""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Runtime"""

    def __post_init__(self) -> None:
        if not 1 <= self.map_size <= 1024:
            raise ValueError(f"map_size is {self.map_size} cells, expected 1 to 1024")
        if not 1 <= self.batch_size <= 16:
            raise ValueError(f"batch_size is {self.batch_size}, expected 1 to 16")
