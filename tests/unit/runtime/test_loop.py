"""The plan of a run, and the loop with a stage of two numbers."""

import errno
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.config.errors import Interrupted, RunError, UserError
from dist_oaa.config.model import OptimConfig
from dist_oaa.runtime.checkpoint import load_checkpoint
from dist_oaa.runtime.plan import Plan, Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.watching.pulse import CHECKPOINT, TRAINING
from fitting import loop_of


@given(st.integers(1, 500), st.integers(1, 40), st.integers(1, 9), st.integers(0, 200))
def test_the_last_pass_sees_every_image(images, batch, epochs, max_steps):
    plan = Plan.of(OptimConfig(batch_size=batch, epochs=epochs, max_steps=max_steps), images)
    steps = [(e, s) for e in range(epochs) for s in range(plan.steps_per_epoch)]
    steps = steps[: max_steps or None]
    assert len(steps) == plan.total_steps
    assert steps[-1][0] == plan.epochs - 1
    in_last_pass = {s for e, s in steps if e >= plan.last_pass}
    assert in_last_pass == {s for _, s in steps[-plan.steps_per_epoch :]}


@pytest.mark.parametrize("micro", [1, 2, 5])
def test_a_step_follows_the_mean_over_its_images(tmp_path, micro):
    loop = loop_of(tmp_path, [[2.0, 4.0, 6.0], [1.0]], micro=micro)
    assert loop.run() == {"figure": 1.0}
    # By hand: w = 1 - .1 (1 - 4) = 1.3; then w = 1.3 - .1 (1.3 - 1) = 1.27.
    assert loop.trainable.model.weight.item() == pytest.approx(1.27)
    (measured,) = loop.stage.measured
    # Losses by hand: ((1-2)^2 + (1-4)^2 + (1-6)^2) / 2 = 17.5, then .3^2 / 2 = .045.
    assert measured == (0, pytest.approx({"images": 4, "loss": 17.545, "seen": 4, "broken": 0}))


def test_a_long_gradient_is_scaled_down(tmp_path):
    # By hand: the gradient is w - 4 = -3, cut to length 0.5; then 1.05 - 1 = 0.05, which is short.
    loop = loop_of(tmp_path, [[4.0], [1.0]], optim=OptimConfig(clip_norm=0.5))
    loop.run()
    assert loop.trainable.model.weight.item() == pytest.approx(1.05 - 0.1 * 0.05)


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


class SlowDisk:
    """Holds the first generation's write back until a step has begun, counted from 1."""

    def __init__(self, loop, until_step):
        self.stage, self.folder = loop.stage, loop.run_dir / "checkpoints"
        self.until_step, self.reached = until_step, threading.Event()
        self.begun_at = self.first = None
        self.before_step, self.stage.before_step = self.stage.before_step, self.note
        self.stage.disk = self

    def note(self, step, total_steps):
        if step + 1 >= self.until_step:
            self.reached.set()
        return self.before_step(step, total_steps)

    def __call__(self, generation):
        if generation == 1:
            self.begun_at = self.stage.steps_begun
            assert self.reached.wait(20), "training waited for the disk"
        elif generation == 2:
            self.first = load_checkpoint(self.folder)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path):
    rows = [[1.5], [2.5], [3.5], [4.5], [5.5], [6.5], [7.5]]
    loop = loop_of(tmp_path / "long", rows, every_steps=3, momentum=0.9)
    slow = SlowDisk(loop, until_step=6)
    loop.run()
    assert slow.begun_at == 3
    assert loop.stage.commits == [1, 2, 3]
    # Read when the next one was written: step 6 had long changed everything. What was published
    # is nevertheless what a run of three steps has at its end.
    short = loop_of(tmp_path / "short", rows[:3], momentum=0.9)
    short.run()
    found, expected = slow.first, load_checkpoint(tmp_path / "short" / "checkpoints")
    assert torch.equal(found.model["weight"], expected.model["weight"])
    momenta = [c.optimizer["state"][0]["momentum_buffer"] for c in (found, expected)]
    assert torch.equal(*momenta)
    assert (found.state["step"], found.state["generation"], found.generation) == (3, 1, 1)
    assert found.state["totals"]["images"] == 3
    last = load_checkpoint(tmp_path / "long" / "checkpoints")
    assert (last.state["step"], last.state["generation"]) == (7, 3)
    assert not torch.equal(last.model["weight"], found.model["weight"])


def test_a_full_disk_stops_training_with_the_last_checkpoint_in_force(tmp_path):
    loop = loop_of(tmp_path, [[1.0]] * 40, every_steps=4)

    def full(generation):
        if generation == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    loop.stage.disk = full
    with pytest.raises(UserError, match="the last checkpoint stays in force: No space left"):
        loop.run()
    assert load_checkpoint(tmp_path / "checkpoints").state["step"] == 4
    assert loop.position.step <= 12  # when the next one was due, at the latest
    assert loop.stage.commits == [1]


def test_a_stop_publishes_what_is_on_its_way_and_then_its_own(tmp_path):
    loop = loop_of(tmp_path, [[1.0]] * 9, every_steps=2)
    SlowDisk(loop, until_step=4)
    before_step = loop.stage.before_step

    def signalled(step, total):
        loop.stop.reason = "SIGUSR1" if step == 2 else loop.stop.reason
        return before_step(step, total)

    loop.stage.before_step = signalled
    with pytest.raises(Interrupted, match="SIGUSR1 in epoch 1 after 4 steps"):
        loop.run()
    assert loop.stage.commits == [1, 2]
    assert load_checkpoint(tmp_path / "checkpoints").state["step"] == 4
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("step*")) == [
        "step-00000002-g000001",
        "step-00000004-g000002",
    ]


@pytest.mark.parametrize(("row", "error"), [([float("nan")], RunError), ([13.0], UserError)])
def test_an_error_lets_the_checkpoint_of_a_sound_step_finish(tmp_path, row, error):
    rows = [[1.0], [2.0], [3.0], row, [1.0]]
    loop = loop_of(tmp_path, rows, every_steps=2, problem_at=13.0)
    SlowDisk(loop, until_step=3)
    with pytest.raises(error):
        loop.run()
    assert load_checkpoint(tmp_path / "checkpoints").state["step"] == 2
    assert not any(thread.name.startswith("oaa-checkpoint") for thread in threading.enumerate())


def test_waiting_for_the_disk_is_said_once(tmp_path, capsys):
    loop = loop_of(tmp_path, [[1.0]] * 3, every_steps=1)
    loop.reporter = Reporter(True, 100)
    loop.stage.disk = lambda generation: generation == 1 and threading.Event().wait(1.2)
    loop.run()
    assert capsys.readouterr().out.count("training waited 1 s for checkpoints") == 1


def test_a_checkpoint_stands_before_a_long_end(tmp_path):
    """What comes after the last step fails: nothing but that has to be done again."""
    loop = loop_of(tmp_path, [[2.0], [3.0]], epochs=2)
    loop.save_before_end = True
    measured = loop.stage.end_epoch

    def fails_at_the_end(position):
        if position.step == 4:
            raise Interrupted("in the middle of it")
        return measured(position)

    loop.stage.end_epoch = fails_at_the_end
    with pytest.raises(Interrupted, match="in the middle"):
        loop.run()
    state = load_checkpoint(tmp_path / "checkpoints").state
    assert (state["epoch"], state["step"], state["step_in_epoch"]) == (1, 4, 2)
    scaler = state.pop("scaler")
    assert scaler is not None
    again = loop_of(tmp_path, [[2.0], [3.0]], epochs=2)
    again.save_before_end = True
    again.position = Position(**state)
    assert again.run() == {"figure": 1.0}
    assert again.stage.measured == [(1, state["totals"])]
    assert again.stage.commits == [3], "the state before the end is not written twice"
    assert again.stage.steps_begun == 0


class FullLog:
    """A tracker whose disk is full from a step on."""

    def __init__(self, step):
        self.step, self.logged = step, []

    def log(self, epoch, step, values, closes_epoch=False):
        if step >= self.step:
            raise UserError("metrics.jsonl could not be written: full")
        self.logged.append(step)

    def flush(self):
        pass


@pytest.mark.parametrize(("step", "steps"), [(2, 2), (3, 3), (5, 5)])
def test_a_log_that_cannot_be_written_stops_at_the_next_step(tmp_path, step, steps):
    """Also when it was the last one of an epoch: the checkpoint before stays in force."""
    loop = loop_of(tmp_path, [[1.0]] * 3, epochs=2)
    loop.tracker = FullLog(step)
    with pytest.raises(UserError, match=r"metrics\.jsonl could not be written"):
        loop.run()
    assert loop.position.step == steps
    if step > 3:
        assert load_checkpoint(tmp_path / "checkpoints").state["step"] == 3
    else:
        assert not (tmp_path / "checkpoints").exists()


def test_images_that_cannot_be_loaded_end_the_run(tmp_path):
    loop = loop_of(tmp_path, [[2.0], [3.0], [4.0]], every_steps=1)
    sound = loop.stage.batches

    def batches(epoch, first_step):
        yield from list(sound(epoch, first_step))[:2]
        raise RunError("data worker 0 (pid 7) was killed by signal 9")

    loop.stage.batches = batches
    with pytest.raises(RunError, match="data worker 0"):
        loop.run()
    assert load_checkpoint(tmp_path / "checkpoints").state["step"] == 2
    assert loop.world.pulse.activities == []


def test_the_pulse_tells_what_the_loop_does(tmp_path):
    loop = loop_of(tmp_path, [[2.0], [3.0]], every_steps=1)
    pulse, seen = loop.world.pulse, {}
    end_epoch, forward = loop.stage.end_epoch, loop.stage.forward

    def slow_disk(generation):
        # The second checkpoint is due while the first one is still being written.
        deadline = time.monotonic() + 20
        while generation == 1 and pulse.activities[-1:] != [CHECKPOINT]:
            assert time.monotonic() < deadline, "nobody says that a checkpoint is waited for"
            time.sleep(0.001)

    def note(name, function):
        def noting(*arguments):
            seen[name] = pulse.activities
            return function(*arguments)

        return noting

    loop.stage.disk = slow_disk
    loop.stage.end_epoch = note("end of epoch", end_epoch)
    loop.stage.forward = note("forward", forward)
    loop.run()
    assert seen["forward"] == [TRAINING]
    assert seen["end of epoch"] == [TRAINING, "measuring after epoch 1"]
    assert (pulse.epoch, pulse.step, pulse.activities) == (0, 2, [])
    assert loop.world.heartbeat.run_dir == tmp_path
