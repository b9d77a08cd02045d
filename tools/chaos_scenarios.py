"""What is attacked: small runs of the training stages on drawn scenes, or a run of the user's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

COMMON = {
    "data.size": 48,
    "data.workers": 0,
    "optim.batch_size": 6,
    "optim.epochs": 3,
    "checkpoint.every_steps": 2,
    "evaluate.images": 4,
    "evaluate.gallery": 1,
    "runtime.device": "cpu",
}
CLASSIFIER = {
    "data.split": "trainval",
    "data.resize": "square",
    "model.backbone": "test_efficientnet",
    "model.weights": "none",
    "model.head_channels": 16,
    "optim.lr": 0.05,
}
ACCUMULATING = {
    # The last bias of an untrained network only falls: without this nothing is attended to.
    "optim.multipliers": "[1, 2, 10, 0]",
    "evaluate.thresholds": 8,
    "accumulate.map_size": 16,
    "accumulate.gate": "none",
    "accumulate.start_epoch": 0,
    "store.shards": 6,
}
SEGMENTER = {
    "data.augment.crop": 48,
    "network.backbone": "test_efficientnet",
    "network.weights": "none",
    "network.output_stride": 16,
    "network.head_channels": 16,
    "network.batch_norm": "train",
    "network.dropout": 0.5,
    "optim.optimizer": "adamw",
    "optim.lr": 0.003,
    "segment.shards": 6,
}
DROPPING = {
    "drop.where": "input",
    "drop.beta": 1.0,
    "drop.delta": 0.3,
    "accumulate.fusion": "average",
}
LEARNING = {"optim.optimizer": "adamw", "optim.lr": 0.003, "integral.shards": 6}


@dataclass(frozen=True)
class Scenario:
    """A kind of run."""

    name: str
    stage: str
    settings: tuple[str, ...]
    """Flags of the command, without the run directory."""
    has_store: bool = False
    """Whether it commits maps to a store."""
    local: bool = False
    """Whether the live store lies on a disk of the node, and commits copy it."""

    def passes(self, point: str) -> bool:
        """Whether such a run passes a fault point."""
        if point.startswith("store.copy."):
            return self.local
        if point.startswith("store.repair."):
            return False
        return self.has_store or not point.startswith("store.")

    def argv(self, run_dir: Path, timeout_s: float, *more: str) -> list[str]:
        """The command of `oaa`."""
        flags = {"run_dir": run_dir, "runtime.timeout_s": timeout_s, "runtime.log_every": 1}
        if self.local:
            flags["store.local_dir"] = f"{run_dir}-local"
        return [self.stage, *self.settings, *_flags(flags), *more]


SCENARIOS = ("max", "average", "drop", "integral", "segment")


def scenario(name: str, data: Path, maps: Path) -> Scenario:
    """One of SCENARIOS.

    Args:
        data: scenes as `oaa data demo` draws them.
        maps: a run of `prerequisite`, which the integral stage learns from.
    """
    root = {"data.root": data}
    classify = COMMON | CLASSIFIER | ACCUMULATING | root
    if name == "integral":
        values = COMMON | CLASSIFIER | LEARNING | root | {"maps": maps}
        return Scenario(name, "integral", _flags(values))
    if name == "segment":
        values = COMMON | SEGMENTER | root | {"labels": data / "SegmentationClass"}
        del values["data.size"]
        return Scenario(name, "segment", _flags(values))
    changes: dict[str, Mapping[str, object]] = {
        "max": {"accumulate.fusion": "max"},
        "average": {"accumulate.fusion": "average", "accumulate.compare": "[ema]"},
        "drop": DROPPING,
    }
    flags = _flags(classify | changes[name])
    return Scenario(name, "classify", flags, has_store=True, local=name == "average")


def prerequisite(data: Path) -> Scenario:
    """A short classification whose maps the integral stage learns."""
    values = COMMON | CLASSIFIER | ACCUMULATING | {"data.root": data, "optim.epochs": 1}
    return Scenario("maps", "classify", _flags(values), has_store=True)


def own(flags: list[str]) -> Scenario:
    """`oaa classify` with the user's settings."""
    return Scenario("own", "classify", tuple(flags), has_store=True)


def _flags(values: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(str(text) for key, value in values.items() for text in (f"--{key}", value))
