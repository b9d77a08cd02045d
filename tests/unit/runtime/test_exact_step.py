"""A step in virtual batches: its sums, what it refuses, and the state of torch around it."""

import contextlib
import math

import numpy as np
import pytest
import torch

from dist_oaa.config.errors import RunError, UserError
from dist_oaa.config.model import OptimConfig
from dist_oaa.config.run import RuntimeConfig
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.exact_step import ExactStep, repeatable
from fitting import Numbers, loop_of

ALONE = World(0, 1, 0, torch.device("cpu"))


class Dealt(Numbers):
    """Numbers in parts that were made before, as VirtualBatches are."""

    def __init__(self, parts):
        super().__init__([v for part in parts for v in part])
        self.parts = parts

    def split(self, parts):
        assert parts == len(self.parts)
        return [Numbers(part) for part in self.parts]


def exact_loop(tmp_path, steps, virtual, **kind):
    """The loop of two numbers whose steps are lists of virtual batches."""
    loop = loop_of(tmp_path, steps, **kind)
    loop.stage.batches = lambda epoch, first: iter([Dealt(parts) for parts in steps[first:]])
    loop.trainable.exact = ExactStep(ALONE, loop.trainable.model, virtual)
    return loop


def test_a_step_follows_the_mean_over_its_images(tmp_path):
    loop = exact_loop(tmp_path, [[[2.0], [], [4.0, 6.0]], [[], [1.0], []]], virtual=3)
    loop.run()
    # By hand: w = 1 - .1 (1 - 4) = 1.3; then w = 1.3 - .1 (1.3 - 1) = 1.27.
    assert loop.trainable.model.weight.item() == pytest.approx(1.27)
    (measured,) = loop.stage.measured
    # Losses by hand: ((1-2)^2 + (1-4)^2 + (1-6)^2) / 2 = 17.5, then .3^2 / 2 = .045.
    assert measured == (0, pytest.approx({"images": 4, "loss": 17.545, "seen": 4, "broken": 0}))


def test_a_step_without_images_changes_nothing(tmp_path):
    loop = exact_loop(tmp_path, [[[], []]], virtual=2)
    loop.run()
    assert loop.trainable.model.weight.item() == 1
    assert loop.position.step == 1


@pytest.mark.parametrize(("value", "blamed"), [(math.nan, "the loss"), (1e38, "the gradient")])
def test_what_is_not_finite_stops_before_the_step(tmp_path, value, blamed):
    loop = exact_loop(tmp_path, [[[1.0], [2.0]], [[3.0], [value]]], virtual=2)
    if value == 1e38:  # finite in itself, but V of them may not be
        loop.stage.loss = lambda values: sum(loop.stage.weight * v * 3.6 for v in values)
    with pytest.raises(RunError, match=f"{blamed} is not finite in epoch 1, step 2"):
        loop.run()
    assert loop.position.step == 1


def test_a_step_that_is_left_out_leaves_no_gradient(tmp_path):
    skip = OptimConfig(on_non_finite="skip_batch", skip_limit=1)
    loop = exact_loop(tmp_path, [[[1.0], [math.inf]], [[2.0], [4.0]]], virtual=2, optim=skip)
    loop.run()
    # The second step alone: w = 1 - .1 (1 - 3) = 1.2.
    assert loop.trainable.model.weight.item() == pytest.approx(1.2)
    assert loop.stage.measured[0][1]["images"] == 2


def two_ranks(values, epoch=0):
    """Both ranks' parts of a step, computed one after another in this process."""
    computed = []
    for rank in range(2):
        loop = loop_of("unused", [])
        loop.stage.weight.data.fill_(0.3)
        exact = ExactStep(World(rank, 2, 0, torch.device("cpu")), loop.trainable.model, len(values))
        parts = [Numbers(part) for part in values[rank::2]]
        computed.append(exact.compute(loop.stage, parts, epoch, sum(map(len, values))))
    return computed


def test_rows_of_two_ranks_add_up_to_those_of_one():
    values = [[0.1, 0.7], [0.3], [], [5.5], [0.9]]
    loop = loop_of("unused", [])
    loop.stage.weight.data.fill_(0.3)
    exact = ExactStep(ALONE, loop.trainable.model, len(values))
    alone = exact.compute(loop.stage, [Numbers(v) for v in values], 0, 5)
    one, two = two_ranks(values)
    assert (one.rows + two.rows).tobytes() == alone.rows.tobytes()
    assert not (one.rows * two.rows).any(), "a row comes from one rank alone"
    assert len(one.terms) + len(two.terms) == len(alone.terms) == 4
    # images, loss, the two counters, and the magnitude of the one gradient: none is -1
    assert alone.rows[2].tolist() == [0, 0, 0, 0, -1]
    assert exact.own_sums(alone)[0] == 5


def test_too_many_processes_are_refused():
    optim = OptimConfig(exact_elastic=True, virtual_batches=2)
    world = World(0, 3, 0, torch.device("cpu"))
    with (
        pytest.raises(
            UserError, match=r"3 processes were started, but optim\.virtual_batches is 2"
        ),
        repeatable(optim, RuntimeConfig(), world),
    ):
        pass


def state() -> tuple:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.get_num_threads(),
    )


@pytest.mark.parametrize(("threads", "expected"), [(0, 1), (2, 2)])
def test_torch_is_as_before_afterwards(threads, expected):
    before, optim = state(), OptimConfig(exact_elastic=True)
    with (
        contextlib.suppress(KeyError),
        repeatable(optim, RuntimeConfig(threads=threads), ALONE),
    ):
        assert state() == (True, False, False, expected)
        raise KeyError
    assert state() == before
    with repeatable(OptimConfig(), RuntimeConfig(threads=threads), ALONE):
        assert state() == before


def test_an_operation_that_cannot_be_repeated_is_named():
    with (
        pytest.raises(UserError, match="cannot repeat: put_ does not have a deterministic"),
        repeatable(OptimConfig(exact_elastic=True), RuntimeConfig(), ALONE),
    ):
        raise RuntimeError("put_ does not have a deterministic implementation, but you set ...")
    with (
        pytest.raises(RuntimeError, match="something else"),
        repeatable(OptimConfig(exact_elastic=True), RuntimeConfig(), ALONE),
    ):
        raise RuntimeError("something else")


def test_minus_zero_does_not_tell_the_world_size(tmp_path):
    """0 and -0 are written differently into metrics.jsonl."""
    loop = exact_loop(tmp_path, [[[1.0], [1.0]]], virtual=2)
    loop.stage.loss = lambda values: loop.stage.weight.sum() * -0.0
    loop.run()
    assert not np.signbit(loop.stage.measured[0][1]["loss"])
