"""All settings of `oaa integral`."""

from dataclasses import dataclass, field
from typing import Literal

from dist_oaa.config.data import DataConfig
from dist_oaa.config.model import ModelConfig, OptimConfig
from dist_oaa.config.run import CheckpointConfig, EvaluateConfig, RuntimeConfig
from dist_oaa.config.views import ViewsConfig


@dataclass(kw_only=True)
class IntegralModelConfig:
    """What the integral attention model learns from the maps, and what it starts from."""

    loss: Literal["mce", "ep", "hybrid"] = "hybrid"
    """mce (cross-entropy of all cells, Eq. 6), ep (of the attended cells alone, Eq. 7) or hybrid
    (ep and the constraint loss, Eq. 9)."""
    threshold: float = 0.0
    """tau: a cell counts as attended where its target exceeds it, 0 to below 1."""
    normalise: Literal["pooled", "per_class"] = "pooled"
    """Over what the means of Eq. 7 and 8 run in each image: pooled takes all its classes together,
    per_class each class by itself and then their mean (absent classes then weigh as much as
    present ones)."""
    init: str = ""
    """Run directory whose trained classifier the model starts from; empty starts from the trunk
    that model.weights names and a new head, as the papers do."""
    shards: int = 24
    """Parts into which the images are dealt, each visited by one rank, a count; a multiple of the
    number of ranks balances them. The order of the images depends on it."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"integral.threshold is {self.threshold}, expected 0 to below 1")
        if not 1 <= self.shards <= 4096:
            raise ValueError(f"integral.shards is {self.shards}, expected 1 to 4096")


@dataclass(kw_only=True)
class IntegralConfig:
    """Train the integral attention model on the maps of an earlier run (OAA+)."""

    maps: str = ""
    """Where the maps are: a store, a run directory (attention/ where it has one, else store/), or
    a folder of `oaa store export`."""
    run_dir: str = "runs/integral"
    """Folder that receives everything the run writes."""
    resume: bool = False
    """Continue from the last complete checkpoint of the run directory."""
    seed: int = 0
    """Seed of the order, the augmentations and the new weights, an integer."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Model"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimisation"""
    integral: IntegralModelConfig = field(default_factory=IntegralModelConfig)
    """Integral attention model"""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """Views of an image from which its final maps are made"""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Measuring"""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints"""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Runtime"""

    def __post_init__(self) -> None:
        if self.model.variant != "cam":
            raise ValueError(
                f"model.variant is {self.model.variant}, expected cam: the integral attention "
                "model is the plain network, and what erases classifies"
            )
