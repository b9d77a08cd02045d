"""All settings of `oaa pipeline` itself; those of its stages are theirs."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class PipelineConfig:
    """Run stages one after another, each on the results of those before it.

    A stage whose result is there, made with the same settings, is not run again; the same command
    goes on where it was stopped. Beside the keys below, `--NAME.KEY VALUE` sets KEY of the stage
    called NAME, and any other `--KEY VALUE` sets KEY in all stages that have it.
    """

    title: str = ""
    """Heading of the report; empty takes the name of the file."""
    run_dir: str = "runs/pipeline"
    """Folder that receives one run directory a stage, pipeline.json and report.html."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of all stages that have the key, nested or dotted."""
    stages: dict[str, Any] = field(default_factory=dict)
    """The stages in order, by a name of your choice: `stage` (what to run; the name itself where
    it is left out), `config` (a settings file, relative to this one), `settings` (over that file)
    and `reads` (which setting names the result of which earlier stage, as `maps: classify` or
    `maps: classify/store-average`)."""
    until: str = ""
    """Name of the last stage to run; empty runs all."""
    workers: int = 0
    """Processes of each distributed stage, a count; 0 takes the GPUs of this machine, or 2 on a
    CPU with at least two cores."""
    dry_run: bool = False
    """List the stages and their commands, and start none."""

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= 1024:
            raise ValueError(f"workers is {self.workers}, expected 0 to 1024 processes")
