"""What the driver hears of Ray Tune, and Ray Tune of signals."""

import signal
from typing import Any

from ray.tune import Callback

from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.tuning.show import SweepProgress


class Report(Callback):
    """Hands reports to the terminal."""

    def __init__(self, progress: SweepProgress, stop: StopFlag) -> None:
        self.progress, self.stop = progress, stop

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles it into its own snapshot of the experiment, which nobody reads.
        return {}

    def setup(self, **info: Any) -> None:
        """Puts our handlers of signals over Ray's, which ends the experiment: ours remember why."""
        rays = signal.getsignal(signal.SIGINT)

        def handle(number: int, frame: object) -> None:
            again = bool(self.stop.reason)
            self.stop.reason = signal.Signals(number).name
            if again:
                raise KeyboardInterrupt
            self.progress.stopping(self.stop.reason)
            if callable(rays):
                rays(signal.SIGINT, frame)
            # Ray puts back what was there before it.
            for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(each, handle)

        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(each, handle)

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch, or a sign of life."""
        self.progress.report(trial.trial_id, result)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Its actor or node is gone for good."""
        self.progress.lost(trial.trial_id)
