"""A trial as Ray Tune sees it: an actor that starts the run's processes and reports its epochs."""

from typing import Any

import ray
from ray import tune

from dist_oaa.stages.launching.processes import Machine, launch
from dist_oaa.stages.tuning.commands import Place, trial_command, variables
from dist_oaa.stages.tuning.nodes import NodeGroup
from dist_oaa.stages.tuning.sweep import Sweep, epochs_of, plan_trial
from dist_oaa.stages.tuning.trial import Trial

HEARTBEAT_S = 0.5
"""Longest time between two reports: a stop waits for the next one."""
REPEAT = "__trial_index__"
"""Where Ray's Repeater writes which of a point's seeds a trial is."""


class RayTrial(tune.Trainable):
    """Runs one point of a sweep.

    Its config holds either `number`, a position in `trials`, or the values of a point.
    """

    def setup(
        self,
        config: dict[str, Any],
        sweep: dict[str, Any],
        trials: list[tuple[dict[str, Any], int]],
        machine: dict[str, Any],
    ) -> None:
        """Plans the run; starts nothing yet."""
        self.sweep = Sweep(**sweep)
        if "number" in config:
            point, seed = trials[config["number"]]
        else:
            point = {key: value for key, value in config.items() if key != REPEAT}
            seed = self.sweep.seeds[config.get(REPEAT, 0)]
        self.run = plan_trial(self.sweep, point, seed)
        self.nodes = NodeGroup(self.sweep) if self.sweep.nodes > 1 else None
        gpus = bool(ray.get_gpu_ids())
        folder = self.sweep.folder

        def line(resume: bool) -> list[str]:
            place = Place(True, self.nodes.endpoint) if self.nodes else None
            return trial_command(self.sweep, self.run, resume, place)

        def start(command, log):
            own = launch(command, log, variables(gpus), folder)
            return self.nodes.start(own, command, log) if self.nodes else own

        self.trial = Trial(self.sweep, self.run, Machine(**machine), line, start)

    def step(self) -> dict[str, Any]:
        """The next epoch's figures, or a sign of life."""
        report = self.trial.look(HEARTBEAT_S)
        done = report["state"] != "running"
        who = {"identity": self.run.identity, "name": self.run.name, "epochs": epochs_of(self.run)}
        return report | who | {"done": done}

    def cleanup(self) -> None:
        """Ends every process of the trial."""
        self.trial.stop()
        if self.nodes is not None:
            self.nodes.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a run keeps its own checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a run goes on from its own checkpoint by itself."""
