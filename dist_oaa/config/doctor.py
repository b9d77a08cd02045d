"""All settings of `oaa doctor`."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class DoctorConfig:
    """Say what runs would find on this machine, and try the parts that they rest on."""

    run_dir: str = "runs"
    """Folder that runs are to write to, or one that does not exist yet: its disk is looked at."""
    self_test: bool = True
    """Also try a shard of the store, the accumulation, two processes and a network: 10 s."""
    json: str = ""
    """File that receives all of it for a program; empty writes none."""
