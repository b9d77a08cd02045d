"""All settings of `oaa saliency`."""

from dataclasses import dataclass, field
from typing import Literal

from dist_oaa.config.data import DataConfig
from dist_oaa.config.run import RuntimeConfig


@dataclass(kw_only=True)
class SaliencyConfig:
    """Write one grey saliency map for each image of a data set."""

    run_dir: str = "runs/saliency"
    """Folder that receives saliency/ and everything else the command writes."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data; images are taken at their own size"""
    method: Literal["spectral", "rembg"] = "spectral"
    """spectral is the spectral residual, which needs no weights; rembg a network of the U2-Net
    family (pip install dist_oaa[rembg])."""
    rembg_model: str = "u2netp"
    """Name of rembg's network; its weights come from where that package gets them."""
    processes: int = 0
    """Processes on each rank, a count; 0 shares all cores of a machine among its ranks."""
    gallery: int = 6
    """Images that are drawn in TensorBoard and in the run directory, a count."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Runtime"""

    def __post_init__(self) -> None:
        for name in ("processes", "gallery"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")
