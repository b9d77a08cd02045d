"""The training loop with a stage of two numbers, for tests."""

import numpy as np
import torch

from dist_oaa.config.model import OptimConfig
from dist_oaa.config.run import CheckpointConfig
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.loop import Loop
from dist_oaa.runtime.plan import Plan, Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.runtime.trainable import Trainable


class Numbers:
    """A batch of numbers."""

    def __init__(self, values):
        self.values, self.bad = values, []
        self.ids = [str(v) for v in values]

    def __len__(self):
        return len(self.values)

    def split(self, parts):
        cuts = np.array_split(self.values, min(parts, max(1, len(self))))
        return [Numbers(cut.tolist()) for cut in cuts]


class Fit:
    """Fits w to the mean of numbers: the loss of x is (w - x)^2 / 2, its gradient w - x."""

    counters = ("seen", "broken")
    broken_counter = "broken"

    def __init__(self, weight, rows, problem_at=None):
        self.weight, self.rows, self.problem_at = weight, rows, problem_at
        self.commits, self.measured = [], []
        self.visited, self.visited_before = [], 0  # what a stage's own store is to it
        self.broken = None  # a number whose "CAM" is not finite
        self.steps_begun = 0
        self.disk = lambda generation: None  # what happens before a commit ends

    def batches(self, epoch, first_step):
        return iter([Numbers(row) for row in self.rows[first_step:]])

    def check(self, batch):
        return "number 13 is bad" if self.problem_at in batch.values else None

    def forward(self, batch, epoch):
        self.visited += batch.values
        return self.loss(batch.values), [float(len(batch)), float(self.broken in batch.values)]

    def loss(self, values):
        return sum((self.weight - v) ** 2 / 2 for v in values)

    def forget_step(self):
        self.visited = self.visited[: self.visited_before]

    def before_step(self, step, total_steps):
        self.steps_begun, self.visited_before = step + 1, len(self.visited)
        return 0.1

    def shown(self, totals):
        return {}

    def end_epoch(self, position):
        self.measured.append((position.epoch, dict(position.totals)))
        return {"figure": 1.0}

    def snapshot(self, generation):
        def write():
            self.disk(generation)
            self.commits.append(generation)

        return write


def loop_of(tmp_path, rows, epochs=1, every_steps=0, micro=1, momentum=0.0, optim=None, **kind):
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    stage = Fit(model.weight, rows, **kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return Loop(
        world=World(0, 1, 0, torch.device("cpu")),
        stage=stage,
        trainable=Trainable(model, model, optimizer, scaler),
        plan=Plan(len(rows), len(rows) * epochs, micro),
        optim=optim or OptimConfig(),
        run_dir=tmp_path,
        checkpoints=CheckpointConfig(every_steps=every_steps),
        stop=StopFlag(),
        reporter=Reporter(False, 1),
        tracker=None,
        log_every=1,
        position=Position(),
    )
