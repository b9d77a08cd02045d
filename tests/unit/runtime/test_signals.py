"""Signals set a flag for the length of a block, and nothing else."""

import os
import signal

import pytest

from dist_oaa.runtime.signals import stop_on_signals

NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers_are_put_back():
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_without_a_signal_there_is_no_reason():
    with stop_on_signals() as flag:
        assert flag.reason == ""


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_sets_the_flag_and_the_block_goes_on(number):
    went_on = False
    with stop_on_signals() as flag:
        send(number)
        went_on = True
        assert flag.reason == number.name
    assert went_on


def test_signals_of_a_scheduler_may_repeat():
    with stop_on_signals() as flag:
        send(signal.SIGUSR1)
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert flag.reason == "SIGTERM"


def test_a_second_interrupt_stops_at_once():
    with stop_on_signals() as flag:
        send(signal.SIGINT)
        assert flag.reason == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_handlers_come_back_after_an_error():
    with pytest.raises(ZeroDivisionError), stop_on_signals():
        raise ZeroDivisionError
