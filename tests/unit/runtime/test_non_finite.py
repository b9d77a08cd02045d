"""Numbers that are not finite: the run stops, or leaves the step out, and says whose images."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.config.errors import Interrupted, RunError, UserError
from dist_oaa.config.model import OptimConfig
from dist_oaa.runtime.checkpoint import load_checkpoint
from dist_oaa.runtime.non_finite import (
    RECORD,
    NonFiniteGuard,
    described,
    finite_gradients,
    training_buffers,
)
from dist_oaa.runtime.plan import Position
from dist_oaa.runtime.progress import Reporter
from fitting import loop_of

NAN, INF = math.nan, math.inf


def skipping(limit: float = 0.5, **settings) -> OptimConfig:
    return OptimConfig(on_non_finite="skip_batch", skip_limit=limit, **settings)


def recorded(folder) -> list[dict]:
    return json.loads((folder / RECORD).read_text())


class Faulty(torch.autograd.Function):
    """A loss of 1 whose gradient is not finite."""

    @staticmethod
    def forward(ctx, weight):
        return torch.ones_like(weight).sum()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.expand(1, 1) * INF


def with_fault(loop, kind: str, value: float):
    """Lets the number `value` of a batch give a CAM, a loss or a gradient that is not finite."""
    sound = loop.stage.loss

    def loss(values):
        if value not in values:
            return sound(values)
        if kind == "gradient":
            return Faulty.apply(loop.stage.weight)
        return sound(values) * (NAN if kind == "loss" else 1.0)

    loop.stage.loss = loss
    loop.stage.broken = value if kind == "CAM" else None
    return loop


@pytest.mark.parametrize("kind", ["CAM", "loss", "gradient"])
def test_a_run_stops_before_the_step_and_names_the_images(tmp_path, kind):
    loop = with_fault(loop_of(tmp_path, [[2.0], [5.0, 7.0], [1.0]]), kind, 7.0)
    sentence = rf"the {kind} is not finite in epoch 1, step 2 \(rank 0; images 5.0, 7.0\)"
    with pytest.raises(RunError, match=sentence):
        loop.run()
    assert loop.trainable.model.weight.item() == pytest.approx(1.1)  # 1 - .1 (1 - 2)
    assert loop.stage.commits == []
    found = ["loss", "gradient"] if kind == "loss" else [kind]
    ranks = [{"rank": 0, "not_finite": found, "images": ["5.0", "7.0"]}]
    assert recorded(tmp_path) == [{"epoch": 1, "step": 2, "action": "stopped", "ranks": ranks}]


@pytest.mark.parametrize("kind", ["CAM", "loss", "gradient"])
@pytest.mark.parametrize("micro", [1, 2])
def test_a_step_left_out_is_as_if_it_had_not_been(tmp_path, kind, micro):
    settings = {"momentum": 0.9, "micro": micro}
    rows = [[2.0, 3.0], [5.0, 7.0], [1.0]]
    loop = with_fault(loop_of(tmp_path, rows, optim=skipping(), **settings), kind, 7.0)
    assert loop.run() == {"figure": 1.0, "train/skipped_steps": 1.0}
    plain = loop_of(tmp_path / "plain", [[2.0, 3.0], [1.0]], **settings)
    plain.run()
    assert torch.equal(loop.trainable.model.weight, plain.trainable.model.weight)
    assert loop.stage.measured == plain.stage.measured, "the totals are those of the other steps"
    assert loop.stage.visited == plain.stage.visited, "the stage took back what it had done"
    (entry,) = recorded(tmp_path)
    assert (entry["action"], entry["step"], entry["epoch"]) == ("skipped", 2, 1)
    assert not (tmp_path / "plain" / RECORD).exists()


def test_the_first_step_may_be_left_out(tmp_path):
    loop = with_fault(loop_of(tmp_path, [[7.0], [2.0]], optim=skipping()), "loss", 7.0)
    assert loop.run()["train/skipped_steps"] == 1
    assert loop.stage.measured == [(0, {"images": 1, "loss": 0.5, "seen": 1, "broken": 0})]


def test_the_count_is_said_for_each_epoch_and_starts_anew(tmp_path, capsys):
    loop = with_fault(loop_of(tmp_path, [[7.0], [2.0]], epochs=2, optim=skipping()), "CAM", 7.0)
    loop.reporter = Reporter(True, 100)
    logged = []
    loop.tracker = SimpleNamespace(
        log=lambda *a: logged.append(a), compare=lambda *a: None, flush=lambda: None
    )
    loop.run()
    assert [entry["step"] for entry in recorded(tmp_path)] == [1, 3]
    closing = [(epoch, numbers) for epoch, _, numbers, *last in logged if last]
    assert closing == [(e, {"figure": 1.0, "train/skipped_steps": 1.0}) for e in (0, 1)]
    lost = [a for a in logged if "train/loss" in a[2] and a[1] in (1, 3)]
    assert not lost, "a step left out has no loss to log"
    text = capsys.readouterr().out
    assert text.count("the CAM is not finite") == 2
    assert "epoch 1: left out 1 of 2 steps" in text
    assert "epoch 2: left out 1 of 2 steps" in text


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 100))
def test_more_than_the_stated_share_stops_the_run(steps, left_out, percent):
    guard = NonFiniteGuard(None, Path("run"), skipping(percent / 100))
    if left_out * 100 > percent * steps:
        with pytest.raises(RunError, match=rf"{left_out} of the {steps} steps .*skip_limit"):
            guard.check_share(left_out, steps)
    else:
        guard.check_share(left_out, steps)


def test_the_share_counts_an_epoch_and_stops_at_once(tmp_path):
    rows = [[7.0], [2.0], [7.0], [7.0], [3.0]]
    loop = with_fault(loop_of(tmp_path, rows, optim=skipping(0.4)), "loss", 7.0)
    with pytest.raises(RunError, match="3 of the 5 steps of an epoch were left out"):
        loop.run()
    assert loop.stage.visited == [2.0]
    assert [entry["step"] for entry in recorded(tmp_path)] == [1, 3, 4]


def test_resuming_repeats_what_was_left_out_to_the_last_bit(tmp_path):
    rows = [[2.0], [7.0], [3.0], [7.0], [5.0], [4.0]]

    def fresh(name, every=0):
        loop = loop_of(tmp_path / name, rows, 2, every, momentum=0.9, optim=skipping())
        loop.run_dir.mkdir(exist_ok=True)
        return with_fault(loop, "gradient", 7.0)

    whole, cut, resumed = fresh("whole"), fresh("cut", every=3), fresh("cut")
    whole.run()

    def power_cut(values):  # during step 5, after the checkpoint of step 3
        if values == [5.0]:
            raise Interrupted("power cut")
        return loss(values)

    loss, cut.stage.loss = cut.stage.loss, power_cut
    with pytest.raises(Interrupted):
        cut.run()
    assert [entry["step"] for entry in recorded(tmp_path / "cut")] == [2, 4]
    found = load_checkpoint(tmp_path / "cut" / "checkpoints")
    found.state.pop("scaler")
    resumed.position = Position(**found.state)
    assert (resumed.position.step, resumed.position.left_out) == (3, 1)
    resumed.trainable.model.load_state_dict(found.model)
    resumed.trainable.optimizer.load_state_dict(found.optimizer)
    resumed.run()
    assert torch.equal(resumed.trainable.model.weight, whole.trainable.model.weight)
    assert resumed.stage.measured == whole.stage.measured
    assert recorded(tmp_path / "cut") == recorded(tmp_path / "whole")
    assert [entry["step"] for entry in recorded(tmp_path / "cut")] == [2, 4, 8, 10]


def test_a_checkpoint_of_before_the_setting_goes_on():
    state = {"epoch": 1, "step_in_epoch": 0, "step": 4, "generation": 2, "totals": {}}
    assert Position(**state).left_out == 0


def test_what_a_later_attempt_does_not_repeat_is_forgotten(tmp_path):
    entries = [
        {"epoch": 1, "step": step, "action": action, "ranks": []}
        for step, action in ((2, "skipped"), (5, "skipped"), (6, "stopped"))
    ]
    (tmp_path / RECORD).write_text(json.dumps(entries))
    loop = loop_of(tmp_path, [[2.0]] * 3, epochs=2, optim=skipping())
    loop.position = Position(epoch=1, step=3)
    loop.run()
    assert recorded(tmp_path) == [entries[0], entries[2]], "why the run stopped stays on record"


@pytest.mark.parametrize("text", ["{", "5", "[3]", '{"a": 1}'])
def test_a_record_of_something_else_is_left_alone(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(UserError, match="no record of this program"):
        loop_of(tmp_path, [[2.0]]).run()
    assert (tmp_path / RECORD).read_text() == text


def test_a_full_disk_does_not_hide_what_happened(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dist_oaa.runtime.non_finite.write_atomic", full)
    with pytest.raises(RunError, match=r"the loss is not finite .*No space left on device"):
        with_fault(loop_of(tmp_path, [[7.0]]), "loss", 7.0).run()


def test_running_statistics_are_taken_back(tmp_path):
    """Batch norm has seen the NaN before anyone can tell."""
    norm, frozen = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1).eval()
    assert [id(b) for b in training_buffers(torch.nn.Sequential(norm, frozen))] == [
        id(b) for b in norm.buffers()
    ]
    loop = loop_of(tmp_path, [[2.0, 4.0], [7.0, 5.0]], optim=skipping())
    sound = loop.stage.loss

    def loss(values):
        norm(torch.tensor(values)[:, None] * (NAN if 7.0 in values else 1.0))
        return sound(values) * (NAN if 7.0 in values else 1.0)

    loop.stage.loss = loss
    loop.trainable.model.add_module("norm", norm)
    loop.run()
    # By hand: momentum .1 of the mean 3 and the unbiased variance 2.
    assert norm.running_mean.item() == pytest.approx(0.3)
    assert norm.running_var.item() == pytest.approx(0.9 + 0.1 * 2)
    assert norm.num_batches_tracked.item() == 1


@pytest.mark.parametrize(("scale", "stops"), [(2.0**16, False), (1.0, True)])
def test_a_scaled_gradient_may_overflow_while_the_scale_can_be_lowered(tmp_path, scale, stops):
    loop = with_fault(loop_of(tmp_path, [[7.0]]), "gradient", 7.0)
    loop.trainable.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1)
    if stops:
        with pytest.raises(RunError, match="the gradient is not finite"):
            loop.run()
    else:
        loop.run()
        assert loop.trainable.scaler.get_scale() == scale / 2
    assert loop.trainable.model.weight.item() == 1.0


@given(
    st.lists(st.lists(st.floats(width=32), min_size=1, max_size=5), max_size=5),
)
def test_gradients_are_judged_element_by_element(values):
    parameters = [torch.nn.Parameter(torch.zeros(len(v))) for v in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(value, dtype=torch.float32)
    parameters.append(torch.nn.Parameter(torch.zeros(2)))  # never reached: no gradient
    assert finite_gradients(parameters) == all(math.isfinite(x) for v in values for x in v)


def test_a_sum_that_overflows_is_no_fault():
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 3e38)
    assert finite_gradients([parameter])


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (
            [(["gradient"], ["a"]), (["loss", "gradient"], ["b"])],
            "the loss is not finite in X (rank 1; images b)",
        ),
        (
            [(["CAM"], ["a"]), (["loss"], ["b"])],
            "the CAM and the loss are not finite in X (ranks 0, 1; images a, b)",
        ),
        (
            [(["gradient"], list("abc")), (["gradient"], list("de"))],
            "the gradient is not finite in X (ranks 0, 1; images a, b, c, d and 1 more)",
        ),
        ([([], ["a"]), (["CAM"], [])], "the CAM is not finite in X (rank 1; images )"),
    ],
)
def test_the_sentence_names_the_ranks_that_it_began_on(parts, sentence):
    assert described(parts, "X") == sentence


@pytest.mark.parametrize("limit", [-0.1, 1.1, NAN])
def test_a_share_is_between_none_and_all(limit):
    with pytest.raises(ValueError, match=r"optim\.skip_limit"):
        OptimConfig(skip_limit=limit)
