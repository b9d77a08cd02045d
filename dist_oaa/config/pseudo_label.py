"""All settings of `oaa pseudo-label`."""

from dataclasses import dataclass, field

from dist_oaa.config.data import DataConfig
from dist_oaa.config.labels import LabelsConfig
from dist_oaa.config.run import RuntimeConfig


@dataclass(kw_only=True)
class PseudoLabelConfig:
    """Turn attention maps into pixel labels for training, and measure them."""

    maps: str = ""
    """What holds the attention maps: a run directory (its attention/, else its store/), a store,
    or a folder of map files as `oaa store export` writes it."""
    run_dir: str = "runs/labels"
    """Folder that receives labels/ and everything else the command writes."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data; where data.root is empty, the run of the maps says which images. Images are taken at
    their own size"""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    """From maps to labels"""
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
