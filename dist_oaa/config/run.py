"""Settings that every training stage shares: checkpoints, time-outs, measuring, tracking."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class CheckpointConfig:
    """When the state of a run becomes durable."""

    every_steps: int = 0
    """Optimiser steps between checkpoints inside an epoch, a count; 0 writes one at each epoch's
    end only."""
    keep: int = 2
    """Complete checkpoints that stay on disk, a count."""
    keep_best: str = ""
    """Metric, such as cumulative/recall or segmentation/miou, whose best checkpoint stays on disk
    besides, recorded in checkpoints/best.json; higher is better, of equals the first. Empty keeps
    none. `--checkpoint RUN/checkpoints/best` gives its network to attend, evaluate, localize,
    predict and export. It cannot be resumed, and has no maps of its own: of each map the store
    keeps the last two commits."""

    def __post_init__(self) -> None:
        if self.every_steps < 0:
            raise ValueError(f"checkpoint.every_steps is {self.every_steps}, expected 0 or more")
        if self.keep < 1:
            raise ValueError(f"checkpoint.keep is {self.keep}, expected at least 1")


@dataclass(kw_only=True)
class EvaluateConfig:
    """How attention is measured on the images that have masks; masks are never trained on."""

    every_epochs: int = 1
    """Epochs between measurements, a count; 0 measures after the last epoch only."""
    images: int = 200
    """Images measured in each epoch but the last, a count, the same ones each time; 0 means all.
    The last epoch always measures all."""
    follow: list[str] = field(default_factory=list)
    """Names of images whose maps are kept and drawn beside those of the gallery, each time that
    attention is measured; tools/animate.py shows them over the epochs."""
    list: str = ""
    """File with one image name a line, relative to the data root or absolute: only these images
    are measured, and in the last epoch as many as in the others. Empty leaves that open."""
    label_free: bool = False
    """Also measure what needs no mask: how well the maps' outlines follow the images' colours."""
    thresholds: int = 50
    """Background thresholds tried for the seed mIoU, a count, evenly spaced in [0, 1)."""
    saliency_dir: str = ""
    """Folder with one grey PNG per image, for the mIoU of the pseudo labels that the maps would
    give, relative to the data root or absolute; empty leaves that out."""
    gallery: int = 6
    """Images whose maps are drawn in TensorBoard and in the run directory, a count."""

    def __post_init__(self) -> None:
        for name in ("every_epochs", "images", "gallery"):
            if getattr(self, name) < 0:
                raise ValueError(f"evaluate.{name} is {getattr(self, name)}, expected 0 or more")
        if not 2 <= self.thresholds <= 256:
            raise ValueError(f"evaluate.thresholds is {self.thresholds}, expected 2 to 256")


@dataclass(kw_only=True)
class RuntimeConfig:
    """Devices, processes and the console."""

    device: str = "auto"
    """auto (cuda where there is one, else cpu), cpu or cuda."""
    timeout_s: float = 600.0
    """Longest wait of a rank for the others before the run stops with an error, in seconds."""
    threads: int = 0
    """Arithmetic threads of each rank on a CPU, a count; 0 shares the cores among the ranks of
    a node, and a rank that is alone there takes as many as OMP_NUM_THREADS says, if it is set."""
    log_every: int = 10
    """Optimiser steps between progress lines and logged training values, a count."""
    watch: bool = True
    """Keep a life sign of every rank in RUN/heartbeat.json, name a rank that is slower than the
    others, and say what a run is waiting for when no step is made."""
    quiet_s: float = 60.0
    """Longest time without a step before the run says what it is doing and whom it waits for, in
    seconds; it says so again after each further such time."""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"runtime.device is {self.device!r}, expected auto, cpu or cuda")
        if not self.quiet_s >= 0.1:  # also where it is no number
            raise ValueError(f"runtime.quiet_s is {self.quiet_s}, expected 0.1 or more seconds")
        if self.timeout_s <= 0 or self.log_every < 1 or self.threads < 0:
            raise ValueError(
                f"runtime.timeout_s is {self.timeout_s}, runtime.log_every {self.log_every}, "
                f"runtime.threads {self.threads}; expected > 0, >= 1 and >= 0"
            )
