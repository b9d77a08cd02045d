"""The plan of a run, and the loop with a stage of two numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.config.errors import Interrupted, RunError, UserError
from dist_oaa.config.model import OptimConfig
from dist_oaa.config.run import CheckpointConfig
from dist_oaa.runtime.checkpoint import load_checkpoint
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.loop import Loop, Plan, Position, Trainable
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.signals import StopFlag


@given(st.integers(1, 500), st.integers(1, 40), st.integers(1, 9), st.integers(0, 200))
def test_the_last_pass_sees_every_image(images, batch, epochs, max_steps):
    plan = Plan.of(OptimConfig(batch_size=batch, epochs=epochs, max_steps=max_steps), images)
    steps = [(e, s) for e in range(epochs) for s in range(plan.steps_per_epoch)]
    steps = steps[: max_steps or None]
    assert len(steps) == plan.total_steps
    assert steps[-1][0] == plan.epochs - 1
    in_last_pass = {s for e, s in steps if e >= plan.last_pass}
    assert in_last_pass == {s for _, s in steps[-plan.steps_per_epoch :]}


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

    counters = ("seen",)

    def __init__(self, weight, rows, problem_at=None):
        self.weight, self.rows, self.problem_at = weight, rows, problem_at
        self.commits, self.measured = [], []

    def batches(self, epoch, first_step):
        return iter([Numbers(row) for row in self.rows[first_step:]])

    def check(self, batch):
        return "number 13 is bad" if self.problem_at in batch.values else None

    def forward(self, batch, epoch):
        return sum((self.weight - v) ** 2 / 2 for v in batch.values), [float(len(batch))]

    def before_step(self, step, total_steps):
        return 0.1

    def shown(self, totals):
        return {}

    def end_epoch(self, position):
        self.measured.append((position.epoch, dict(position.totals)))
        return {"figure": 1.0}

    def commit(self, generation):
        self.commits.append(generation)


def loop_of(tmp_path, rows, epochs=1, every_steps=0, micro=1, **kind):
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    stage = Fit(model.weight, rows, **kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return Loop(
        world=World(0, 1, 0, torch.device("cpu")),
        stage=stage,
        trainable=Trainable(model, model, optimizer, scaler),
        plan=Plan(len(rows), len(rows) * epochs, micro),
        run_dir=tmp_path,
        checkpoints=CheckpointConfig(every_steps=every_steps),
        stop=StopFlag(),
        reporter=Reporter(False, 1),
        tracker=None,
        log_every=1,
        position=Position(),
    )


@pytest.mark.parametrize("micro", [1, 2, 5])
def test_a_step_follows_the_mean_over_its_images(tmp_path, micro):
    loop = loop_of(tmp_path, [[2.0, 4.0, 6.0], [1.0]], micro=micro)
    assert loop.run() == {"figure": 1.0}
    # By hand: w = 1 - .1 (1 - 4) = 1.3; then w = 1.3 - .1 (1.3 - 1) = 1.27.
    assert loop.trainable.model.weight.item() == pytest.approx(1.27)
    (measured,) = loop.stage.measured
    # Losses by hand: ((1-2)^2 + (1-4)^2 + (1-6)^2) / 2 = 17.5, then .3^2 / 2 = .045.
    assert measured == (0, pytest.approx({"images": 4, "loss": 17.545, "seen": 4}))


def test_checkpoints_fall_where_asked(tmp_path):
    loop = loop_of(tmp_path, [[1.0]] * 5, epochs=2, every_steps=2)
    loop.run()
    # Steps 2, 4 and the end of an epoch at 5; 6, 8 and the end at 10, which is not made twice.
    assert loop.stage.commits == [1, 2, 3, 4, 5, 6]
    state = load_checkpoint(tmp_path / "checkpoints").state
    assert (state["epoch"], state["step"], state["step_in_epoch"]) == (2, 10, 0)


def test_a_finished_run_does_nothing(tmp_path):
    loop = loop_of(tmp_path, [[1.0]])
    loop.run()
    assert loop.run() == {}
    assert len(loop.stage.measured) == 1


def test_stop_in_the_middle_and_go_on(tmp_path):
    whole = loop_of(tmp_path / "whole", [[2.0], [3.0], [5.0]])
    whole.run()
    cut = loop_of(tmp_path / "cut", [[2.0], [3.0], [5.0]])
    original = cut.stage.before_step
    cut.stage.before_step = lambda *a: (setattr(cut.stop, "reason", "SIGTERM"), original(*a))[1]
    with pytest.raises(Interrupted, match="stopped by SIGTERM in epoch 1 after 2 steps"):
        cut.run()
    resumed = loop_of(tmp_path / "cut", [[2.0], [3.0], [5.0]])
    found = load_checkpoint(tmp_path / "cut" / "checkpoints")
    found.state.pop("scaler")
    resumed.position = Position(**found.state)
    resumed.trainable.model.load_state_dict(found.model)
    resumed.run()
    assert torch.equal(resumed.trainable.model.weight, whole.trainable.model.weight)
    assert resumed.stage.measured == whole.stage.measured


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    loop = loop_of(tmp_path, [[2.0], [float("nan")], [1.0]])
    with pytest.raises(RunError, match=r"not finite in epoch 1, step 2 .*images nan"):
        loop.run()
    assert loop.trainable.model.weight.item() == pytest.approx(1.1)
    assert loop.stage.commits == []


def test_a_problem_stops_before_the_step(tmp_path):
    loop = loop_of(tmp_path, [[2.0], [13.0]], problem_at=13.0)
    with pytest.raises(UserError, match="number 13 is bad"):
        loop.run()
    assert loop.trainable.model.weight.item() == pytest.approx(1.1)
