"""What stops a trial early, with Ray's scheduler and no cluster."""

import types

import pytest

from dist_oaa.config.tune import SchedulerConfig
from dist_oaa.stages.launching import records
from dist_oaa.stages.tuning.space import grid
from dist_oaa.stages.tuning.sweep import all_trials
from sweeps import a_sweep, write_run

pytest.importorskip("ray", reason="needs Ray: pip install 'dist_oaa[sweep]'")
METRIC = "cumulative/seed_miou"


@pytest.fixture
def halving(tmp_path):
    """ASHA over four trials of three epochs with rungs at 1 and 2, and the trials' runs."""
    from dist_oaa.stages.tuning.schedule import NotedHalving

    sweep, spaces = a_sweep(tmp_path)
    config = SchedulerConfig(method="asha", grace_epochs=1, reduction=2)
    scheduler = NotedHalving(sweep, config, epochs=3)
    runs = all_trials(sweep, grid(spaces))
    for run in runs:
        write_run(run, [0.1])
        scheduler.on_trial_add(None, types.SimpleNamespace(trial_id=run.identity, config={}))
    return scheduler, runs


def decide(scheduler, run, epoch, value):
    """The decision on a report."""
    trial = types.SimpleNamespace(trial_id=run.identity)
    result = {"epoch": epoch, "identity": run.identity, METRIC: value}
    return scheduler.on_trial_result(None, trial, result)


def test_who_falls_behind_is_stopped_and_that_is_written_down(halving):
    scheduler, (first, second, third, _) = halving
    assert decide(scheduler, first, 1, 0.5) == "CONTINUE"
    assert decide(scheduler, second, 1, 0.6) == "CONTINUE"
    assert decide(scheduler, third, 1, 0.2) == "STOP"
    stopped = [records.load_record(run.folder).stopped_epoch for run in (first, second, third)]
    assert stopped == [0, 0, 1]


def test_signs_of_life_and_reports_without_a_figure_decide_nothing(halving):
    scheduler, (first, second, *_) = halving
    assert decide(scheduler, first, 1, 0.5) == "CONTINUE"
    trial = types.SimpleNamespace(trial_id=second.identity)
    nothing = {"epoch": 0, "identity": second.identity}
    assert scheduler.on_trial_result(None, trial, nothing) == "CONTINUE"
    for _ in range(3):  # the same epoch again
        assert decide(scheduler, first, 1, 0.5) == "CONTINUE"


def test_nobody_is_stopped_after_the_last_epoch(halving):
    scheduler, (first, second, *_) = halving
    assert decide(scheduler, first, 3, 0.9) == "CONTINUE"
    assert decide(scheduler, second, 3, 0.1) == "CONTINUE"
    assert records.load_record(second.folder).stopped_epoch == 0
