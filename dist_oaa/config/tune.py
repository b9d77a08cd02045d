"""All settings of `oaa tune` itself; those of its trials are theirs."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(kw_only=True)
class BaseConfig:
    """What every trial runs."""

    stage: str = "classify"
    """A stage that `oaa` trains or measures, or pipeline."""
    config: str = ""
    """Its settings file, relative to this one."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings over that file, nested or dotted; those of a pipeline's stage begin with its
    name."""


@dataclass(kw_only=True)
class SearchConfig:
    """How points are chosen in the space."""

    method: Literal["grid", "random", "optuna"] = "grid"
    """grid tries every combination of the listed values; random and optuna try `samples` points,
    optuna (tree-structured Parzen estimator) learning from those that are done."""
    samples: int = 20
    """Points of random and optuna, a count."""
    seed: int = 0
    """Of the choice of points; the seeds of the trials are `seeds`."""


@dataclass(kw_only=True)
class SchedulerConfig:
    """Which trials are stopped early."""

    method: Literal["none", "asha"] = "none"
    """asha (asynchronous successive halving): at epochs `grace_epochs` x `reduction`^k only the
    best share 1 / `reduction` of the trials that came so far goes on."""
    grace_epochs: int = 2
    """Epochs that every trial may run, a count."""
    reduction: float = 3.0
    """The larger, the fewer go on; above 1."""


@dataclass(kw_only=True)
class ObjectiveConfig:
    """What makes a trial good; the value of its last epoch counts."""

    metric: str = "cumulative/seed_miou"
    """Name of a figure as metrics.jsonl has it. cumulative/f_score is the other one that needs
    masks; cumulative/colour and classifier/map need none."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less is better."""
    images: str = ""
    """File with one image name a line: the training images whose masks may be looked at, relative
    to the data root or absolute. Empty takes all training images that have masks."""


@dataclass(kw_only=True)
class TrialConfig:
    """What Ray gives to a trial, and how it ends."""

    workers: int = 1
    """Processes of a trial on each node, a count."""
    nodes: int = 1
    """Nodes of a trial, a count; their processes meet through torchrun's rendezvous."""
    cpus_per_worker: float = 1.0
    """Cores that Ray reserves for each process, also its number of arithmetic threads."""
    gpus_per_worker: float = 0.0
    """GPUs that Ray reserves for each process; a fraction shares one among trials of one
    process."""
    retries: int = 1
    """How often a trial goes on from its checkpoint after it was killed or its node was lost, a
    count; one that ends by itself with an error is not tried again."""
    grace_s: float = 3.5
    """How long a trial that is stopped may write its checkpoint, in seconds."""

    def __post_init__(self) -> None:
        for name in ("workers", "nodes"):
            if not 1 <= getattr(self, name) <= 1024:
                raise ValueError(f"trial.{name} is {getattr(self, name)}, expected 1 to 1024")
        if self.cpus_per_worker <= 0:
            raise ValueError(f"trial.cpus_per_worker is {self.cpus_per_worker}, expected above 0")
        whole = self.gpus_per_worker == int(self.gpus_per_worker)
        if self.gpus_per_worker < 0 or not (whole or self.workers == 1):
            raise ValueError(
                f"trial.gpus_per_worker is {self.gpus_per_worker}, expected a whole number, or a "
                "fraction where trial.workers is 1"
            )
        if self.retries < 0 or self.grace_s < 0:
            raise ValueError(
                f"trial.retries is {self.retries} and trial.grace_s {self.grace_s}, expected 0 or "
                "more"
            )


@dataclass(kw_only=True)
class RayConfig:
    """Where trials run."""

    address: str = ""
    """Empty starts Ray on this machine for the length of the command; auto, or HOST:PORT, uses a
    cluster that is there."""
    cpus: int = 0
    """Cores of this machine that trials may use, a count; 0 takes all."""
    gpus: int = -1
    """GPUs of this machine that trials may use, a count; -1 takes all."""
    object_store_mb: int = 80
    """Ray's shared memory on this machine, in MB; trials put nothing into it."""

    def __post_init__(self) -> None:
        if self.cpus < 0 or self.gpus < -1 or self.object_store_mb < 80:
            raise ValueError(
                f"ray.cpus is {self.cpus}, ray.gpus {self.gpus} and ray.object_store_mb "
                f"{self.object_store_mb}, expected at least 0, -1 and 80"
            )


@dataclass(kw_only=True)
class TuneConfig:
    """Try settings of a stage, such as the drop layer's delta and beta, with Ray Tune.

    Every trial is an ordinary run in RUN/trials. Beside the keys below, any `--KEY VALUE` sets KEY
    of all trials.
    """

    title: str = ""
    """Heading of the results; empty takes the name of the file."""
    run_dir: str = "runs/sweep"
    """Folder that receives the trials and the results; on a cluster, on storage that all nodes
    share."""
    base: BaseConfig = field(default_factory=BaseConfig)
    """What every trial runs"""
    space: Any = field(default_factory=dict)
    """Settings to try, by dotted key: a value, {grid: [...]}, {choice: [...]}, {uniform: [LOW,
    HIGH]}, {loguniform: [LOW, HIGH]}, {quniform: [LOW, HIGH, STEP]} or {randint: [LOW, BELOW]};
    with search.method grid also a list of such spaces, one after the other."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """How points are chosen"""
    seeds: list[int] = field(default_factory=lambda: [0])
    """Seeds of each point's trials; the results show their mean and spread."""
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    """Stopping early"""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What makes a trial good"""
    trial: TrialConfig = field(default_factory=TrialConfig)
    """Resources of a trial"""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where trials run"""
    warm_start: list[str] = field(default_factory=list)
    """Folders of earlier sweeps, or run directories, whose results are taken over where all
    settings agree but those of the space."""
    resume: bool = False
    """Go on with the sweep in run_dir: what is finished stays, what was cut off goes on from its
    checkpoint."""
    dry_run: bool = False
    """List the trials and a command for each, and start none."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}, expected each seed once, at least one")
        if self.search.samples < 1:
            raise ValueError(f"search.samples is {self.search.samples}, expected at least 1")
        if self.scheduler.grace_epochs < 1 or self.scheduler.reduction <= 1:
            raise ValueError(
                f"scheduler.grace_epochs is {self.scheduler.grace_epochs} and scheduler.reduction "
                f"{self.scheduler.reduction}, expected at least 1 and above 1"
            )
        searching = self.search.method == "optuna" and self.scheduler.method == "asha"
        if searching and len(self.seeds) > 1:
            raise ValueError(
                f"seeds is {self.seeds}, expected one seed where optuna and asha work together: "
                "optuna would learn from means over trials that asha has cut"
            )
