"""Starting Ray, handing it the trials, and leaving nothing behind."""

import dataclasses
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dist_oaa.config.errors import UserError, in_one_line
from dist_oaa.config.extras import need
from dist_oaa.config.tune import TuneConfig
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.launching.processes import Machine
from dist_oaa.stages.tuning.resources import Node, per_node, refuse_impossible
from dist_oaa.stages.tuning.show import SweepProgress
from dist_oaa.stages.tuning.space import Point, Space
from dist_oaa.stages.tuning.sweep import Sweep
from dist_oaa.stages.tuning.watchdog import watched

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A trial's relative paths begin where the command was given.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Before its first epoch a trial has no objective.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # metrics.jsonl and TensorBoard are the runs' own.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    # The state that counts is the runs'; Ray's own snapshot is thrown away.
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    # Without GPUs of its own an actor shall see none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}


@dataclass
class Work:
    """What is left to be done."""

    points: Sequence[tuple[Point, int]] = ()
    """Known points, of a grid or random ones, each with a seed."""
    space: Space | None = None
    """What Optuna searches, where it does."""
    samples: int = 0
    """Points that Optuna has still to try."""
    known: list[tuple[Point, float]] = field(default_factory=list)
    """What it may learn from."""
    begun: list[Point] = field(default_factory=list)
    """What it shall begin with."""
    epochs: int = 1
    """Of a whole trial."""


@contextmanager
def ray_for(config: TuneConfig, machine: Machine) -> Iterator[list[Node]]:
    """Ray on this machine for the length of the block, or the cluster that is there; yields what
    its nodes have.

    Raises:
        UserError: when Ray is not installed, or no cluster answers.
    """
    os.environ |= QUIET
    if config.ray.address:
        with connected({"address": config.ray.address}, config.ray.address) as nodes:
            yield nodes
        return
    own = this_node(config, machine)
    # Sockets lie below it, and their paths must be short.
    folder = tempfile.mkdtemp(prefix="oaa-ray-")
    settings = {
        "address": "local",
        "num_cpus": own["CPU"],
        "num_gpus": own.get("GPU", 0),
        "object_store_memory": config.ray.object_store_mb * 1_000_000,
        "include_dashboard": False,
        "_temp_dir": folder,
    }
    with watched(folder), connected(settings, "local") as nodes:
        yield nodes


@contextmanager
def connected(settings: dict[str, object], address: str) -> Iterator[list[Node]]:
    """A connection to Ray; a local one ends with it.

    Raises:
        UserError: when Ray is not installed, or does not answer.
    """
    ray = need("ray", "oaa tune")
    try:
        ray.init(**settings, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"ray.address is {address!r}, but no Ray answers there: {in_one_line(error)}"
        ) from error
    try:
        for name in ("ray", "ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def this_node(config: TuneConfig, machine: Machine) -> Node:
    """What trials may use of this machine."""
    gpus = len(machine.gpus) if config.ray.gpus < 0 else config.ray.gpus
    return {"CPU": config.ray.cpus or machine.cores, "GPU": gpus}


def run_trials(
    config: TuneConfig, sweep: Sweep, work: Work, machine: Machine, progress: SweepProgress,
    stop: StopFlag,
) -> None:  # fmt: skip
    """Has Ray Tune run what is left; what came out lies in the trials' own folders.

    Raises:
        UserError: when a trial asks for what no node has; nothing has been started then.
    """
    if not config.ray.address:
        # Before Ray is started: the answer is known.
        refuse_impossible(config.trial, [this_node(config, machine)], "this machine")
    with ray_for(config, machine) as nodes:
        at_once = refuse_impossible(config.trial, nodes, "the Ray cluster")
        progress.begin(at_once)
        tune_them(config, sweep, work, machine, progress, stop)


def tune_them(
    config: TuneConfig, sweep: Sweep, work: Work, machine: Machine, progress: SweepProgress,
    stop: StopFlag,
) -> None:  # fmt: skip
    """One experiment of Ray Tune."""
    from ray import tune

    from dist_oaa.stages.tuning.callback import Report
    from dist_oaa.stages.tuning.schedule import optuna_search, scheduler
    from dist_oaa.stages.tuning.trainable import RayTrial

    trainable = tune.with_parameters(
        RayTrial,
        sweep=dataclasses.asdict(sweep),
        trials=list(work.points),
        machine=dataclasses.asdict(machine),
    )
    bundles = [per_node(config.trial)] * config.trial.nodes
    strategy = "STRICT_SPREAD" if config.trial.nodes > 1 else "PACK"
    resources = tune.PlacementGroupFactory(bundles, strategy=strategy)
    search, param_space, samples = None, {}, 1
    if work.space is None:
        param_space = {"number": tune.grid_search(list(range(len(work.points))))}
    else:
        # A search that goes on must not begin with the points that it began with before.
        seed = config.search.seed + len(work.known)
        search = optuna_search(sweep, work.space, seed, work.known, work.begun)
        samples = work.samples * len(sweep.seeds)
    storage = Path(sweep.out) / ".ray"
    try:
        tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space=param_space,
            tune_config=tune.TuneConfig(
                scheduler=scheduler(sweep, config.scheduler, work.epochs),
                search_alg=search,
                num_samples=samples,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=str(storage),
                name="sweep",
                verbose=0,
                callbacks=[Report(progress, stop)],
                # A lost node takes its actor along; the run goes on elsewhere.
                failure_config=tune.FailureConfig(max_failures=config.trial.retries),
            ),
        ).fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)
