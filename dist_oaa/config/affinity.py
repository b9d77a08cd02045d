"""All settings of `oaa affinity`."""

from dataclasses import dataclass, field

from dist_oaa.config.data import DataConfig
from dist_oaa.config.model import ModelConfig, OptimConfig
from dist_oaa.config.run import CheckpointConfig, RuntimeConfig


@dataclass(kw_only=True)
class AffinityNetConfig:
    """What the affinity network compares, and what it starts from."""

    levels: list[int] = field(default_factory=lambda: [-3, -2, -1])
    """Stages of the trunk whose feature maps are compared, 0 the shallowest, -1 the deepest, in
    this order; they take the place of model.out_index."""
    channels: list[int] = field(default_factory=lambda: [64, 128, 256])
    """Channels to which each level is reduced, one count a level (PSA: 64, 128 and 256)."""
    stride: int = 8
    """Input pixels per cell of the compared features: 4, 8, 16 or 32."""
    radius: int = 5
    """Cells up to this distance apart are compared, in cells, as labels.random_walk.radius joins
    them later (PSA: less than 5)."""
    init: str = ""
    """Run directory of `oaa classify` or `oaa integral` whose trunk the network starts from; empty
    starts from the trunk that model.weights names."""
    shards: int = 24
    """Parts into which the images are dealt, each visited by one rank, a count; a multiple of the
    number of ranks balances them. The order of the images depends on it."""
    gallery: int = 6
    """Images whose learned boundaries are drawn in the run directory, a count."""

    def __post_init__(self) -> None:
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise ValueError(f"affinity.levels is {self.levels}, expected one stage or several")
        if len(self.channels) != len(self.levels) or min(self.channels) < 1:
            raise ValueError(
                f"affinity.channels is {self.channels}, expected a count for each of the "
                f"{len(self.levels)} levels of affinity.levels"
            )
        if self.stride not in (4, 8, 16, 32):
            raise ValueError(f"affinity.stride is {self.stride}, expected 4, 8, 16 or 32")
        if not 1 <= self.radius <= 32:
            raise ValueError(f"affinity.radius is {self.radius} cells, expected 1 to 32")
        if not 1 <= self.shards <= 4096:
            raise ValueError(f"affinity.shards is {self.shards}, expected 1 to 4096")
        if self.gallery < 0:
            raise ValueError(f"affinity.gallery is {self.gallery}, expected 0 or more")


@dataclass(kw_only=True)
class AffinityConfig:
    """Train a network that tells which neighbouring cells belong together (AffinityNet)."""

    labels: str = ""
    """Pseudo labels to learn from: a run of `oaa pseudo-label`, or a folder with a PNG for each
    image. Pixels of 255 teach nothing."""
    background_labels: str = ""
    """A second folder or run, as PSA makes: objects are then learnt from `labels` alone and
    background from this one alone; pixels on which the two disagree teach nothing."""
    run_dir: str = "runs/affinity"
    """Folder that receives everything the run writes."""
    resume: bool = False
    """Continue from the last complete checkpoint of the run directory."""
    seed: int = 0
    """Seed of the order, the augmentations and the new weights, an integer."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Model: its trunk alone counts here"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimisation"""
    affinity: AffinityNetConfig = field(default_factory=AffinityNetConfig)
    """Affinity network"""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints"""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Runtime"""

    def __post_init__(self) -> None:
        if self.model.variant != "cam":
            raise ValueError(
                f"model.variant is {self.model.variant}, expected cam: the affinity network has "
                "the trunk of a classifier and no head to erase with"
            )
