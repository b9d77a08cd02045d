"""All settings of `oaa classify`."""

from dataclasses import dataclass, field

from dist_oaa.config.accumulate import AccumulateConfig, StoreConfig
from dist_oaa.config.data import DataConfig
from dist_oaa.config.drop import DropConfig
from dist_oaa.config.model import ModelConfig, OptimConfig
from dist_oaa.config.run import CheckpointConfig, EvaluateConfig, RuntimeConfig


@dataclass(kw_only=True)
class ClassifyConfig:
    """Train a classifier on image-level labels and accumulate its attention while it trains."""

    run_dir: str = "runs/classify"
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
    accumulate: AccumulateConfig = field(default_factory=AccumulateConfig)
    """Accumulation"""
    drop: DropConfig = field(default_factory=DropConfig)
    """Attention drop layer"""
    store: StoreConfig = field(default_factory=StoreConfig)
    """Store"""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Measuring"""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints"""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Runtime"""

    def __post_init__(self) -> None:
        first, maps = self.model.two_branch.start_epoch, self.accumulate.start_epoch
        if self.model.variant == "two_branch" and first < maps:
            raise ValueError(
                f"model.two_branch.start_epoch is {first}, expected at least "
                f"accumulate.start_epoch, which is {maps}: before it there is no map to learn"
            )
