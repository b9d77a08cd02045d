"""How long a run is, and where in it a training stands."""

from dataclasses import dataclass, field

from dist_oaa.config.model import OptimConfig


@dataclass(frozen=True)
class Plan:
    """How long a run is."""

    steps_per_epoch: int
    total_steps: int
    micro_batches: int
    """Parts into which a rank splits its share of a step."""

    @property
    def epochs(self) -> int:
        """Epochs that are begun; the last one may be cut short."""
        return -(-self.total_steps // self.steps_per_epoch)

    @property
    def last_pass(self) -> int:
        """First of the epochs that hold the last pass over all images."""
        return max(0, self.total_steps - self.steps_per_epoch) // self.steps_per_epoch

    @classmethod
    def of(cls, config: OptimConfig, images: int) -> "Plan":
        """The plan for a number of images."""
        steps_per_epoch = -(-images // config.batch_size)
        total = config.epochs * steps_per_epoch
        return cls(steps_per_epoch, min(total, config.max_steps or total), config.accumulate)


@dataclass
class Position:
    """Where a run stands; all that resuming needs beside weights and maps."""

    epoch: int = 0
    """Epochs finished, measuring included."""
    step_in_epoch: int = 0
    """Optimiser steps done in the current epoch."""
    step: int = 0
    """Optimiser steps done in all."""
    generation: int = 0
    """Generation of the newest checkpoint, published or on its way."""
    totals: dict[str, float] = field(default_factory=dict)
    """Sums over the images of the current epoch so far."""
    skipped: list[str] = field(default_factory=list)
    """Unreadable images that were skipped, one sentence each."""
    left_out: int = 0
    """Steps of the current epoch that were left out, for a number that was not finite."""
