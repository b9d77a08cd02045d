"""Ray Tune's searchers and scheduler, with what a sweep adds to them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.repeater import Repeater

from dist_oaa.config.tune import SchedulerConfig
from dist_oaa.stages.launching import records
from dist_oaa.stages.tuning.space import Domain, Point, Space
from dist_oaa.stages.tuning.sweep import Sweep, find_folder


class NotedHalving(AsyncHyperBandScheduler):
    """ASHA that writes into a run's record that it stopped it: it stays stopped ever after."""

    def __init__(self, sweep: Sweep, config: SchedulerConfig, epochs: int) -> None:
        super().__init__(
            time_attr="epoch",
            metric=sweep.metric,
            mode=sweep.mode,
            max_t=max(epochs, config.grace_epochs),
            grace_period=config.grace_epochs,
            reduction_factor=config.reduction,
            # At its last epoch a run still has its results to write.
            stop_last_trials=False,
        )
        self.sweep, self.epochs = sweep, epochs

    def on_trial_result(self, tune_controller, trial, result: dict[str, Any]) -> str:
        """Ray's decision, noted; after the last epoch there is nothing left to stop."""
        if result["epoch"] >= self.epochs:
            return TrialScheduler.CONTINUE
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            folder = find_folder(self.sweep, "", result["identity"])
            record = records.load_record(folder)
            if record is not None and not record.finished:
                records.save_record(folder, replace(record, stopped_epoch=int(result["epoch"])))
        return decision


class PatientOptuna(OptunaSearch):
    """Optuna's search that bears reports without a figure: those before a trial's first epoch."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Hands a report on if it says anything."""
        if self.metric in result:
            super().on_trial_result(trial_id, result)


def scheduler(sweep: Sweep, config: SchedulerConfig, epochs: int) -> TrialScheduler:
    """What decides which trials go on.

    Args:
        epochs: of a whole trial.
    """
    return FIFOScheduler() if config.method == "none" else NotedHalving(sweep, config, epochs)


def optuna_search(
    sweep: Sweep,
    space: Space,
    seed: int,
    known: Sequence[tuple[Point, float]],
    begun: Sequence[Point],
) -> OptunaSearch | Repeater:
    """Optuna's tree-structured Parzen estimator.

    Args:
        known: points that are done, with their objective.
        begun: points to begin with, such as those that were cut off.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = PatientOptuna(
        space={key: distribution(space[key]) for key in sweep.keys},
        metric=sweep.metric,
        mode=sweep.mode,
        points_to_evaluate=list(begun),
        seed=seed,
    )
    for point, value in known:
        search.add_evaluated_point(point, value)
    if len(sweep.seeds) == 1:
        return search
    return Repeater(search, repeat=len(sweep.seeds), set_index=True)


def distribution(domain: Domain) -> Any:
    """A setting's values in Optuna's terms."""
    from optuna import distributions as d

    if domain.listed:
        return d.CategoricalDistribution(domain.values)
    low, high = domain.values[:2]
    if domain.kind == "randint":
        return d.IntDistribution(low, high - 1)
    if domain.kind == "quniform":
        return d.FloatDistribution(low, high, step=domain.values[2])
    return d.FloatDistribution(low, high, log=domain.kind == "loguniform")
