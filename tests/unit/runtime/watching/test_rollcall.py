"""Who is named when ranks lose contact. The other ranks are threads that set their life signs."""

import dataclasses
import json
import os
import signal
import threading
import time
from dataclasses import asdict

import pytest
import torch.distributed as dist

from dist_oaa.config.errors import LostContact
from dist_oaa.config.run import RuntimeConfig
from dist_oaa.runtime.watching.heartbeat import Heartbeat, word_key
from dist_oaa.runtime.watching.pulse import WAITING, Pulse
from dist_oaa.runtime.watching.rollcall import RollCall, lost_a_peer, undisturbed
from dist_oaa.runtime.watching.slowness import Word

EVERY_S = 0.15
HOSTS = ("alpha", "alpha", "beta", "beta")
GLOO = RuntimeError(
    "[/build/gloo/unbound_buffer.cc:129] Timed out waiting 6000ms for recv. Check the logs."
)


def word(rank: int, beat: int, doing: tuple[str, ...] = ("training",)) -> str:
    said = Heartbeat(Pulse(rank), len(HOSTS), None, EVERY_S).word()
    return json.dumps(asdict(dataclasses.replace(said, host="x", beat=beat, doing=list(doing))))


class Others:
    """Ranks that have spoken once; those in `alive` go on speaking until the block ends."""

    def __init__(self, store, alive, doing: tuple[str, ...] = ("training",)) -> None:
        self.store, self.alive, self.doing = store, alive, doing
        self.over = threading.Event()

    def __enter__(self):
        for rank in range(len(HOSTS)):
            self.store.set(word_key(rank), word(rank, 1))
        self.thread = threading.Thread(target=self.speak)
        self.thread.start()

    def speak(self) -> None:
        beat = 1
        while not self.over.wait(EVERY_S):
            beat += 1
            for rank in self.alive:
                self.store.set(word_key(rank), word(rank, beat, self.doing))

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def roll_call(store, rank: int, **changes) -> RollCall:
    config = RuntimeConfig(timeout_s=6, **changes)
    heartbeat = Heartbeat(Pulse(rank), len(HOSTS), None, EVERY_S)
    return RollCall(heartbeat, config, rank, HOSTS, store)


def test_the_silent_rank_is_named_with_its_host():
    store = dist.HashStore()
    with Others(store, alive=[0, 1, 2]):
        error = roll_call(store, 1).lost_contact(GLOO)
    assert str(error) == (
        "rank 1 (alpha) lost contact: rank 3 (beta) gives no sign of life; continue with "
        "--resume (Timed out waiting 6000ms for recv)"
    )


def test_several_are_named_and_one_rank_of_a_node_speaks():
    store = dist.HashStore()
    with Others(store, alive=[1]):
        first = roll_call(store, 1).lost_contact(GLOO)
    assert "rank 0 (alpha), rank 2 (beta) and rank 3 (beta) give no sign of life" in str(first)
    assert first.speaks, "rank 0 is gone: the next of its node speaks"
    store = dist.HashStore()
    with Others(store, alive=[0, 1, 2]):
        assert not roll_call(store, 1).lost_contact(GLOO).speaks
        assert roll_call(store, 2).lost_contact(GLOO).speaks


def test_nobody_waits_when_all_are_there():
    """A rank that is late is told from one that is gone."""
    store, start = dist.HashStore(), time.monotonic()
    call = roll_call(store, 1)
    call._patience_s = 20
    with Others(store, alive=[0, 2, 3], doing=("training", "loading images")):
        error = call.lost_contact(GLOO)
    assert time.monotonic() - start < 10
    said = str(error)
    assert "though all of them give signs of life: waiting for rank 0 (x), loading images" in said


def test_ranks_that_fail_later_hear_of_it_from_those_that_have_ended():
    """Rank 2 ends after it has missed rank 3: rank 1, which comes later, must not miss rank 2."""
    store = dist.HashStore()
    with Others(store, alive=[0, 1, 2]):
        roll_call(store, 2).lost_contact(GLOO)
    with Others(store, alive=[0, 1]):
        said = str(roll_call(store, 1).lost_contact(GLOO))
    assert "rank 3 (beta) gives no sign of life" in said
    assert "rank 2" not in said


def test_a_rank_that_ended_alone_is_named_with_its_error():
    store = dist.HashStore()
    with Others(store, alive=[0, 2]):
        roll_call(store, 3).leave(ValueError("no such\nthing"))
        said = str(roll_call(store, 1).lost_contact(GLOO))
    assert "lost contact: rank 3 (beta) ended with ValueError: no such thing;" in said


def test_a_store_that_does_not_answer_is_the_node_of_rank_0():
    class Dead:
        def check(self, keys):
            raise dist.DistNetworkError("Connection reset by peer")

    over = threading.Event()

    class Hung:
        def check(self, keys):
            over.wait(60)
            raise dist.DistStoreError("late")

    said = str(roll_call(Dead(), 2).lost_contact(GLOO))
    assert "rank 2 (beta) lost contact with the other ranks: rank 0 (alpha) cannot be" in said
    assert "its launcher does not answer" in str(roll_call(Dead(), 0).lost_contact(GLOO))
    start = time.monotonic()
    error = roll_call(Hung(), 3).lost_contact(GLOO)
    assert time.monotonic() - start < 10
    assert "rank 0 (alpha) cannot be reached" in str(error)
    assert error.speaks, "where nobody can say who is there, everybody speaks"
    over.set()
    for thread in threading.enumerate():
        if thread.name == "oaa-roll-call":
            thread.join(10)


def test_without_life_signs_nobody_is_accused():
    store = dist.HashStore()
    said = str(roll_call(store, 1, watch=False).lost_contact(GLOO))
    assert "runtime.watch is off" in said
    with Others(store, alive=[0, 2, 3]):
        assert "give no sign" not in str(roll_call(store, 2).lost_contact(GLOO))


def test_where_restarts_are_left_nobody_is_told_to_resume(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    store = dist.HashStore()
    with Others(store, alive=[0, 2]):
        error = roll_call(store, 1).lost_contact(GLOO)
    assert isinstance(error, LostContact)
    assert error.exit_code == 1
    assert "it is started again" in str(error)
    assert "--resume" not in str(error)


def test_a_network_that_fails_between_ranks_that_are_there_is_suspected():
    store = dist.HashStore()
    with Others(store, alive=[0, 2, 3], doing=("training", WAITING)):
        said = str(roll_call(store, 1).lost_contact(GLOO))
    assert "all ranks wait for each other: is the network between them in order?" in said


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (GLOO, True),
        (RuntimeError("Application timeout caused pair closure"), True),
        (RuntimeError("Read error [10.0.0.3]:3: Connection reset by peer"), True),
        (RuntimeError("NCCL communicator was aborted on rank 1"), True),
        (dist.DistNetworkError("anything"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("gloo"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_which_errors_are_of_a_collective(error, expected):
    assert lost_a_peer(error) is expected


def test_sigterm_waits_until_the_roll_is_called():
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            assert not received
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_words_travel_as_they_are():
    assert Word(**json.loads(word(2, 5))).beat == 5
