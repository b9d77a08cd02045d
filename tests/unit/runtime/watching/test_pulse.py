"""What a rank notes of itself: activities, and a step's own time without that of the others."""

import threading
import time

import pytest
import torch

from dist_oaa.runtime.watching.pulse import LOADING, WAITING, WARM_UP, WINDOW, Pulse, StepTime


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_activities_lie_in_each_other(clock):
    pulse = Pulse(clock=clock)
    assert pulse.activities == []
    with pulse.doing("training"):
        clock.now += 5
        with pulse.doing(LOADING):
            assert pulse.activities == ["training", LOADING]
            assert pulse.changed_at == 105
            clock.now += 2
        assert pulse.activities == ["training"]
        assert pulse.changed_at == 107
    assert pulse.activities == []


def test_an_error_ends_its_activity(clock):
    pulse = Pulse(clock=clock)
    with pytest.raises(KeyError), pulse.doing("training"), pulse.doing(LOADING):
        raise KeyError
    assert pulse.activities == []


def test_an_outermost_activity_begins_the_count_towards_a_step(clock):
    pulse = Pulse(clock=clock)
    clock.now += 1000
    with pulse.doing("starting"):
        assert pulse.step_at == 1100
        clock.now += 7
        with pulse.doing(WAITING):
            assert pulse.step_at == 1100


def test_a_steps_own_time_is_what_is_left_of_it(clock):
    pulse = Pulse(clock=clock)
    for step in range(1, WARM_UP + 3):
        with pulse.doing(LOADING):
            clock.now += 0.25
        with pulse.doing(WAITING):
            clock.now += 2
        clock.now += 0.5
        with pulse.doing(WAITING):
            clock.now += 1
        pulse.step_done(3, step, images=4)
    assert list(pulse.recent) == [StepTime(0.75, 0.25, 3.0, 4)] * 2  # the first ones are not timed
    assert (pulse.epoch, pulse.step, pulse.step_at) == (3, WARM_UP + 2, clock.now)


def test_what_happens_between_steps_is_left_out(clock):
    pulse = Pulse(clock=clock)
    for step in range(WARM_UP + 1):
        clock.now += 1
        pulse.step_done(0, step, 1)
    clock.now += 50  # measuring
    with pulse.doing(WAITING):
        clock.now += 50
    pulse.restart()
    clock.now += 1
    pulse.step_done(0, WARM_UP + 1, 1)
    assert [time.own_s for time in pulse.recent] == [1, 1]
    assert [time.waited_s for time in pulse.recent] == [0, 0]


def test_only_the_last_steps_are_kept(clock):
    pulse = Pulse(clock=clock)
    for step in range(WARM_UP + WINDOW + 7):
        clock.now += step
        pulse.step_done(0, step, 1)
    assert [time.own_s for time in pulse.recent] == list(range(WARM_UP + 7, WARM_UP + WINDOW + 7))


class LateGradient(torch.autograd.Function):
    """Takes its time in the backward pass, as a rank's own work."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(0.05)
        return gradient


def test_the_end_of_a_backward_pass_counts_as_waiting():
    """A callback that is queued inside the pass, as DDP's own is, runs after our mark."""
    pulse, seen = Pulse(timed=True), []

    def wait_for_others():
        seen.append(pulse.activities)
        time.sleep(0.2)

    weight = torch.ones(3, requires_grad=True)
    late = LateGradient.apply(weight)
    late.register_hook(
        lambda _: torch.autograd.Variable._execution_engine.queue_callback(wait_for_others)
    )
    pulse.backward(late.sum())()
    assert seen == [[WAITING]]
    assert pulse.activities == []
    assert torch.equal(weight.grad, torch.ones(3))
    for step in range(WARM_UP + 1):
        pulse.step_done(0, step, 1)
    # Steps before the one that is kept took the wait with them: only its size is looked at here.
    assert 0.2 <= pulse._spent[WAITING] < 0.24


def test_an_error_in_the_pass_leaves_no_activity():
    pulse = Pulse(timed=True)
    weight = torch.ones(3, requires_grad=True)
    loss = weight.sum()
    loss.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pulse.backward(loss)
    assert pulse.activities == []


def test_without_watching_a_pass_is_a_plain_one():
    pulse = Pulse(timed=False)
    weight = torch.ones(3, requires_grad=True)
    pulse.backward((2 * weight).sum())()
    assert torch.equal(weight.grad, torch.full((3,), 2.0))
    assert pulse._spent[WAITING] == 0


def test_another_thread_reads_while_activities_change():
    pulse, over, seen = Pulse(), threading.Event(), []

    def read():
        while not over.is_set():
            seen.append(tuple(pulse.activities))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(2000):
        with pulse.doing("training"), pulse.doing(LOADING):
            pass
    over.set()
    reader.join(10)
    assert set(seen) <= {(), ("training",), ("training", LOADING)}
