"""A life sign of every rank, and a word to the user when nothing moves.

Two threads a process, neither of which the training ever waits for:
 - `oaa-heartbeat` tells the other ranks what this one is doing, and rank 0's writes
   RUN/heartbeat.json for whoever looks from outside. It may hang on the network or a disk.
 - `oaa-watch` only looks and speaks: when no step has been made for `runtime.quiet_s`, and again
   after each further such time, it says what is being done and whom all wait for; and when a
   rank becomes slower than the others.

Words travel through the key-value store by which the ranks found each other (TCPStore), so no
collective is added to a step. Rank 0 speaks for all; where it is silent itself, the lowest rank
that is not.
"""

import contextlib
import datetime
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median_low
from typing import Any

import torch.distributed as dist

from dist_oaa.config.run import RuntimeConfig
from dist_oaa.runtime.watching.pulse import Pulse
from dist_oaa.runtime.watching.slowness import Heard, Stragglers, Word, awaited

RECORD = "heartbeat.json"
BEAT_S = 5.0
"""Seconds between words, at most; a sixth of `runtime.quiet_s` where that is shorter."""
PATIENCE_S = 10.0
"""Longest wait for an answer of the store, in seconds."""


class Heartbeat:
    """Tells the others what this rank does, and knows what they last said.

    Args:
        store: the ranks' common key-value store; None in a world of one.
        every_s: seconds between words.
    """

    def __init__(self, pulse: Pulse, size: int, store: Any, every_s: float) -> None:
        self.pulse, self.size, self.every_s = pulse, size, every_s
        self.run_dir: Path | None = None
        """Where rank 0 keeps its record; None where there is no run directory."""
        self._store, self._beat = store, 0
        self._known: set[int] = set()
        self._last: dict[int, tuple[Word, float]] = {}
        """By rank: the last word and when it was first seen, on our own clock."""

    @property
    def silent_s(self) -> float:
        """Age of a word from which on its rank counts as silent, in seconds."""
        return 3 * self.every_s

    def word(self) -> Word:
        """What this rank says now."""
        pulse, recent = self.pulse, list(self.pulse.recent)

        def middle(name: str) -> float:
            return round(median_low(getattr(t, name) for t in recent), 6) if recent else 0.0

        return Word(
            pulse.rank,
            pulse.host,
            pulse.pid,
            self._beat,
            pulse.epoch,
            pulse.step,
            pulse.activities,
            round(pulse.clock() - pulse.changed_at, 3),
            pulse.hint(),
            len(recent),
            middle("own_s"),
            middle("loading_s"),
            middle("waited_s"),
            fmean(t.images for t in recent) if recent else 0.0,
        )

    def heard(self) -> list[Heard]:
        """The last word of every rank that has spoken, this one's first."""
        now = self.pulse.clock()
        last = [pair for rank, pair in list(self._last.items()) if rank != self.pulse.rank]
        others = [Heard(word, now - since) for word, since in last]
        return [Heard(self.word(), 0.0), *sorted(others, key=lambda each: each.word.rank)]

    def forgive(self) -> None:
        """Takes all words for new: it was this process that did not listen."""
        now = self.pulse.clock()
        self._last = {rank: (word, now) for rank, (word, _) in list(self._last.items())}

    def exchange(self, quiet: bool) -> None:
        """Speaks to the others, and listens: rank 0 always, the others when nothing moves.

        Raises:
            RuntimeError: when the store does not answer (torch's DistError is one).
        """
        self._beat += 1
        if self._store is None:
            return
        self._store.set(word_key(self.pulse.rank), json.dumps(asdict(self.word())))
        if self.pulse.rank and not quiet:
            return
        for rank in set(range(self.size)) - self._known:
            if self._store.check([word_key(rank)]):
                self._known.add(rank)
        ranks = sorted(self._known)
        if not ranks:
            return
        for rank, text in zip(
            ranks, self._store.multi_get([word_key(r) for r in ranks]), strict=True
        ):
            word = Word(**json.loads(text))
            if rank not in self._last or self._last[rank][0].beat != word.beat:
                self._last[rank] = word, self.pulse.clock()

    def record(self, state: str) -> None:
        """Writes RUN/heartbeat.json; a disk that is full is not this file's affair."""
        if self.run_dir is None or self.pulse.rank:
            return
        ranks = [asdict(each.word) | {"last_word_s": round(each.ago_s, 3)} for each in self.heard()]
        text = json.dumps({"state": state, "time": time.time(), "ranks": ranks}, indent=1)
        path = self.run_dir / RECORD
        # Not synced: it is of no use after a crash, and a slow disk must not hold it up. A fixed
        # name: what a kill leaves is replaced by the next.
        temporary = path.with_name(f".{RECORD}.tmp")
        try:
            temporary.write_text(text + "\n", encoding="utf-8")
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def silent_heartbeat() -> Heartbeat:
    """That of a process alone which tells nobody."""
    return Heartbeat(Pulse(), 1, None, BEAT_S)


def word_key(rank: int) -> str:
    """Where a rank's word lies in the common store."""
    return f"oaa/word/{rank}"


class Watch:
    """Looks at the pulse and the words, and speaks when there is something to say."""

    def __init__(
        self, heartbeat: Heartbeat, quiet_s: float, say: Callable[[str], None] | None = None
    ) -> None:
        self.heartbeat, self.quiet_s, self.say = heartbeat, quiet_s, say or self._print
        self._stragglers = Stragglers()
        self._at, self._told_s = heartbeat.pulse.step_at, 0.0
        self._looked_at = heartbeat.pulse.clock()

    @property
    def quiet(self) -> bool:
        """Whether nothing has moved for half the time that is worth a word."""
        pulse = self.heartbeat.pulse
        return bool(pulse.activities) and pulse.clock() - pulse.step_at > self.quiet_s / 2

    def look(self) -> None:
        """Speaks, if there is something to say and this rank is the one to say it."""
        pulse, before = self.heartbeat.pulse, self._looked_at
        self._looked_at = pulse.clock()
        if self._looked_at - before > self.heartbeat.silent_s:  # this process was stopped
            self.heartbeat.forgive()
        if pulse.step_at != self._at:
            if self._told_s and pulse.activities:
                self.say(f"it goes on, after {pulse.step_at - self._at:.0f} s")
            self._at, self._told_s = pulse.step_at, 0.0
        quiet_s = pulse.clock() - self._at
        if pulse.activities and quiet_s >= self._told_s + self.quiet_s:
            heard = self.heartbeat.heard()
            if self._speaks(heard):
                self._told_s = quiet_s
                why = awaited(heard, self.heartbeat.size, self.heartbeat.silent_s)
                self.say(f"no step for {quiet_s:.0f} s: {why}")
        elif pulse.rank == 0 and self.heartbeat.size > 1:
            for sentence in self._stragglers.judge([h.word for h in self.heartbeat.heard()]):
                self.say(sentence)

    def _speaks(self, heard: list[Heard]) -> bool:
        own = heard[0].word.rank
        return not any(
            each.word.rank < own and each.ago_s <= self.heartbeat.silent_s for each in heard[1:]
        )

    def _print(self, text: str) -> None:
        # A progress bar redirects standard output above itself.
        pulse = self.heartbeat.pulse
        print(text if not pulse.rank else f"{pulse.name}: {text}", flush=True)


@contextlib.contextmanager
def open_heartbeat(config: RuntimeConfig, rank: int, size: int) -> Iterator[Heartbeat]:
    """A heartbeat that is told and watched by two threads until the block ends.

    Without `runtime.watch` there are no threads and nothing is told. In a world of several, the
    process group is there already.
    """
    every_s = min(BEAT_S, config.quiet_s / 6)
    store = own_store() if size > 1 and config.watch else None
    pulse = Pulse(rank, timed=config.watch and size > 1)
    heartbeat = Heartbeat(pulse, size, store, every_s)
    if not config.watch:
        yield heartbeat
        return
    watch, over = Watch(heartbeat, config.quiet_s), threading.Event()

    def tell() -> None:
        while True:
            with contextlib.suppress(RuntimeError):  # the others are gone; training finds out too
                heartbeat.exchange(watch.quiet)
            heartbeat.record("running")
            if over.wait(every_s):
                return

    def look() -> None:
        while not over.wait(min(1.0, every_s / 2)):
            watch.look()

    # Daemons: one that hangs on a dead network must not hold up the end of the process.
    threads = [
        threading.Thread(target=target, name=name, daemon=True)
        for target, name in ((tell, "oaa-heartbeat"), (look, "oaa-watch"))
    ]
    for thread in threads:
        thread.start()
    try:
        yield heartbeat
    finally:
        over.set()
        for thread in threads:
            thread.join(1.0)
        heartbeat.record("ended")


def own_store() -> Any:
    """A connection of its own to the ranks' common key-value store.

    An answer that does not come must not block the training's.
    """
    store = dist.distributed_c10d._get_default_store().clone()
    store.set_timeout(datetime.timedelta(seconds=PATIENCE_S))
    return store
