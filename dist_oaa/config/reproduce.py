"""All settings of `oaa reproduce`."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class ReproduceDataConfig:
    """Where the images are; which of them, and how they are read, is the table's own matter."""

    root: str = ""
    """Folder of the data set that every run of the table reads."""


@dataclass(kw_only=True)
class ReproduceEvaluateConfig:
    """What the runs measure beside the table's own settings."""

    saliency_dir: str = ""
    """Folder with one grey PNG per image, for the mIoU of pseudo labels, relative to the data root
    or absolute; empty leaves that column out."""


@dataclass(kw_only=True)
class ReproduceConfig:
    """Make a table of the papers: run what its rows need and print them beside the papers' numbers.

    The same command again goes on where it was stopped; finished runs are never run again, and
    tables share the runs that have the same settings.
    """

    table: str = ""
    """Name of a table in configs/reproduce, such as table11, or the path of a YAML file."""
    run_dir: str = "runs/reproduce"
    """Folder that receives the runs (in runs/), and TABLE.md, TABLE.csv and pictures."""
    scale: str = "cpu"
    """Which of the table's scales: cpu (a few hundred images, no GPU) or full (the papers')."""
    workers: int = 0
    """Processes of each run, a count; 0 takes the GPUs of this machine, or 2 on a CPU with at
    least two cores."""
    seeds: list[int] = field(default_factory=list)
    """Seeds of the runs, one repetition each; empty takes the scale's own."""
    only: list[str] = field(default_factory=list)
    """Names of the rows whose runs are made; the others show what is there. Empty makes all."""
    dry_run: bool = False
    """List the runs and their commands, and start none."""
    data: ReproduceDataConfig = field(default_factory=ReproduceDataConfig)
    """Data"""
    evaluate: ReproduceEvaluateConfig = field(default_factory=ReproduceEvaluateConfig)
    """Measuring"""

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= 1024:
            raise ValueError(f"workers is {self.workers}, expected 0 to 1024 processes")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}, expected each seed once")
