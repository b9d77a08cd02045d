"""The command line of a trial, on one node or several."""

import sys
from dataclasses import dataclass

from dist_oaa.stages.launching.kinds import KINDS
from dist_oaa.stages.launching.planned import PlannedRun
from dist_oaa.stages.tuning.sweep import PIPELINE, Sweep

HOSTS, JOINS = "is_host=true", "is_host=false"


@dataclass(frozen=True)
class Place:
    """A node's part in a trial on several nodes."""

    hosts: bool
    """Whether the meeting place is on this node."""
    endpoint: str
    """HOST:PORT where the nodes meet."""


def trial_command(
    sweep: Sweep, run: PlannedRun, resume: bool, place: Place | None = None
) -> list[str]:
    """What starts a trial on one of its nodes; the arguments are the run's own."""
    arguments = [*run.arguments, "--runtime.threads", str(sweep.threads)]
    if run.stage == PIPELINE:
        # It starts torchrun itself, and goes on by itself.
        return [*python(), *arguments, "--workers", str(sweep.workers)]
    if resume:
        arguments += ["--resume", "true"]
    if sweep.nodes == 1 and (sweep.workers == 1 or KINDS[run.stage].alone):
        return [*python(), *arguments]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(sweep.workers)]
    if place is None:
        launcher += ["--standalone"]  # at a port that the system chooses
    else:
        launcher += ["--nnodes", str(sweep.nodes), "--rdzv-id", run.identity]
        launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", place.endpoint]
        # Told, not guessed from the address: a node may have several.
        launcher += ["--max-restarts", "0", "--rdzv-conf", HOSTS if place.hosts else JOINS]
    return [sys.executable, *launcher, "-m", "dist_oaa", *arguments]


def python() -> list[str]:
    """What starts `oaa` in this environment."""
    return [sys.executable, "-m", "dist_oaa"]


def variables(gpus: bool) -> dict[str, str]:
    """Environment of a trial: Ray's thread count is for the whole trial, not a process; without
    GPUs of its own it sees none."""
    own = {"OMP_NUM_THREADS": "1"}
    return own if gpus else own | {"CUDA_VISIBLE_DEVICES": ""}
