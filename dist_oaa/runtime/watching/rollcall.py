"""Who is missing when the ranks lose contact with each other.

What gloo says of a peer that hangs or has vanished names no rank. So a rank whose collective has
failed calls the roll before it ends: a rank whose life sign (heartbeat.py) still changes in the
ranks' common key-value store is there, also while it is blocked in a collective of its own. What
was found stays behind as a note, for the ranks that fail a moment later.

The store lives with rank 0, or with the launcher of its node. Where it cannot be reached nobody
can say more than that.
"""

import contextlib
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch.distributed as dist

from dist_oaa.config.errors import Interrupted, LostContact, RunError, UserError, in_one_line
from dist_oaa.config.run import RuntimeConfig
from dist_oaa.runtime.relaunch import starts_again
from dist_oaa.runtime.watching.heartbeat import Heartbeat, own_store, word_key
from dist_oaa.runtime.watching.pulse import WAITING
from dist_oaa.runtime.watching.slowness import Heard, Word, awaited

POLL_S = 0.2
ANSWER_S = 3.0
"""Longest wait for the store beyond the time that life signs need, in seconds."""
NAMED = 4
OF_A_PEER = re.compile(
    "gloo|nccl|pair closure|timed out waiting|(wait|read|socket) timeout|"
    "connection (closed|reset|refused)|broken pipe",
    re.IGNORECASE,
)
""""Application timeout caused pair closure", for one, does not say that it comes from gloo."""


@dataclass
class Note:
    """What a rank that ends early leaves for the others; travels as JSON."""

    rank: int
    error: str = ""
    """What ended it; empty when it had lost contact itself."""
    missing: list[int] = field(default_factory=list)
    """The ranks that it missed."""


@dataclass
class Roll:
    """What a roll call has found."""

    words: dict[int, Word] = field(default_factory=dict)
    """By rank: its last word."""
    alive: set[int] = field(default_factory=set)
    """Ranks that gave a new life sign."""
    notes: dict[int, Note] = field(default_factory=dict)

    def missing(self, ranks: set[int]) -> set[int]:
        """Those of the ranks that have vanished, in our own view or that of ranks now gone."""
        known = {rank for note in self.notes.values() for rank in note.missing}
        return (ranks - self.alive - self.notes.keys()) | (known & ranks)


class RollCall:
    """One rank's view of the others.

    Args:
        hosts: host name of each rank.
        store: the ranks' common key-value store.
    """

    def __init__(
        self,
        heartbeat: Heartbeat,
        config: RuntimeConfig,
        rank: int,
        hosts: Sequence[str],
        store: Any,
    ) -> None:
        self.rank, self.hosts = rank, hosts
        self._heartbeat, self._config = heartbeat, config
        self._others = set(range(len(hosts))) - {rank}
        self._patience_s = 2 * heartbeat.every_s + 1
        self._store = store

    def lost_contact(self, error: Exception) -> LostContact:
        """The error of this rank, whose collective has failed; takes a few seconds."""
        roll = self._answered(self._call)
        missing = self._missing(roll) if roll else set()
        what = self._sentence(roll, missing) if roll else self._unreachable()
        reason = re.sub(r"^\[[^]]*\]\s*", "", " ".join(str(error).split()))
        reason = in_one_line(reason.split(". ")[0])
        then = "it is started again" if starts_again() else "continue with --resume"
        here = [r for r, host in enumerate(self.hosts) if host == self.hosts[self.rank]]
        speaks = roll is None or self.rank == min(set(here) - missing)
        return LostContact(f"{self._names([self.rank])} {what}; {then} ({reason})", speaks)

    def leave(self, error: BaseException) -> None:
        """Tells the others that this rank ends alone, and of what."""
        reason = in_one_line(f"{type(error).__name__}: {error}")
        note = Note(self.rank, error=reason)
        self._answered(lambda store: store.set(_note_key(self.rank), json.dumps(asdict(note))))

    def _answered(self, question: Any) -> Any:
        """Asks the store in a thread: one that cannot be reached may never answer."""
        answers: list[Any] = []

        def ask() -> None:
            with contextlib.suppress(RuntimeError, OSError, ValueError):
                answers.append(question(self._store))

        thread = threading.Thread(target=ask, name="oaa-roll-call", daemon=True)
        thread.start()
        lingering = self._patience_s if self.rank == 0 else 0.0
        thread.join(self._patience_s + lingering + ANSWER_S)
        return answers[0] if answers else None

    def _call(self, store: Any) -> Roll:
        first = self._read(store)
        roll, deadline = Roll(), time.monotonic() + self._patience_s
        while self._others - roll.alive - roll.notes.keys() and time.monotonic() < deadline:
            time.sleep(POLL_S)
            now = self._read(store)
            fresh = {r for r, w in now.words.items() if first.words.get(r) != w}
            roll = Roll(now.words, roll.alive | fresh, now.notes)
        missing = sorted(self._missing(roll))
        store.set(_note_key(self.rank), json.dumps(asdict(Note(self.rank, missing=missing))))
        if self.rank == 0:
            self._linger(store, self._others - set(missing))
        return roll

    def _missing(self, roll: Roll) -> set[int]:
        # Without life signs everybody would seem to be gone.
        return roll.missing(self._others) if self._config.watch else set()

    def _linger(self, store: Any, ranks: set[int]) -> None:
        # The store may end with this process: the others shall have called their own roll.
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline and ranks - self._read(store).notes.keys():
            time.sleep(POLL_S)

    def _read(self, store: Any) -> Roll:
        roll = Roll()
        for rank in self._others:
            if store.check([word_key(rank)]):
                roll.words[rank] = Word(**json.loads(store.get(word_key(rank))))
            if store.check([_note_key(rank)]):
                roll.notes[rank] = Note(**json.loads(store.get(_note_key(rank))))
        return roll

    def _sentence(self, roll: Roll, missing: set[int]) -> str:
        ended = [n for r, n in sorted(roll.notes.items()) if n.error and r not in missing]
        if missing:
            given = "gives" if len(missing) == 1 else "give"
            return f"lost contact: {self._names(missing)} {given} no sign of life"
        if ended:
            causes = "; ".join(f"{self._names([n.rank])} ended with {n.error}" for n in ended[:2])
            return f"lost contact: {causes}"
        if not self._config.watch:
            return "lost contact with another rank: runtime.watch is off, so nobody knows which"
        own = Heard(replace(self._heartbeat.word(), doing=[WAITING]), 0.0)
        heard = [own, *(Heard(word, 0.0) for _, word in sorted(roll.words.items()))]
        return (
            "lost contact with another rank, though all of them give signs of life: "
            f"{awaited(heard, len(self.hosts), 1.0)}"
        )

    def _unreachable(self) -> str:
        if self.rank == 0:
            return "lost contact with the other ranks, and its launcher does not answer"
        return (
            f"lost contact with the other ranks: {self._names([0])} cannot be reached, by whose "
            "node all find each other"
        )

    def _names(self, ranks: Sequence[int] | set[int]) -> str:
        """`rank 2 (node1) and rank 3 (node1)`."""
        names = [f"rank {rank} ({self.hosts[rank]})" for rank in sorted(ranks)]
        if len(names) > NAMED:
            names[NAMED - 1 :] = [f"{len(names) - NAMED + 1} more"]
        return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


@contextlib.contextmanager
def roll_called(
    heartbeat: Heartbeat, config: RuntimeConfig, rank: int, size: int, control: Any
) -> Iterator[None]:
    """Turns the failure of a collective in the block into an error that names who is missing.

    Entered by all ranks together, while the heartbeat beats.

    Raises:
        LostContact: for what torch.distributed raises; other errors pass.
    """
    hosts: list[str] = [""] * size
    dist.all_gather_object(hosts, socket.gethostname(), group=control)
    # The connection is made while all are there: one that is made across a cut network tells its
    # troubles at length on standard error.
    roll_call = RollCall(heartbeat, config, rank, hosts, own_store())
    try:
        yield
    except (UserError, RunError, Interrupted):
        raise  # the same on all ranks
    except BaseException as error:
        if lost_a_peer(error):
            with undisturbed():
                lost = roll_call.lost_contact(error)
            raise lost from error
        roll_call.leave(error)
        raise


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignores SIGTERM for the length of a block.

    torchrun sends it to the other ranks of a node as soon as one has died, and kills them half a
    minute later: long enough to find out and say who it was.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def lost_a_peer(error: BaseException) -> bool:
    """Whether an error is a collective's that has failed."""
    # gloo reports a vanished peer as a plain RuntimeError.
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and bool(OF_A_PEER.search(str(error)))
    )


def _note_key(rank: int) -> str:
    return f"oaa/left/{rank}"
