"""Who is slow and whom all wait for, told from what the ranks last said of themselves.

Pure functions of the ranks' words; heartbeat.py brings them and prints what is found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from dist_oaa.runtime.watching.pulse import CHECKPOINT, LOADING, TRAINING, WAITING

SLOW, RECOVERED = 1.5, 1.2
"""A rank is slow from this many times the others' own time on, until it falls below the second."""
SLOW_PER_IMAGE = 1.25
"""And slow for each of its images too: an uneven share of a step makes nobody a straggler."""
LEAST_S = 0.05
"""A difference below this many seconds a step is not worth a word."""
STEPS = 15
"""Timed steps that a judgement needs from every rank."""
NAMED = 3
AWAY = (WAITING, CHECKPOINT)
"""Activities to which the images' own progress says nothing."""


@dataclass(frozen=True)
class Word:
    """What a rank says of itself; travels as JSON."""

    rank: int
    host: str
    pid: int
    beat: int
    """Grows with every word: a word that stays the same is old."""
    epoch: int
    step: int
    """Optimiser steps done."""
    doing: list[str]
    """Activities, outermost first."""
    for_s: float
    """Seconds since the activity last changed."""
    hint: str
    steps: int
    """Timed steps behind the medians below."""
    own_s: float
    """Median seconds of a step's own work, images included."""
    loading_s: float
    waited_s: float
    images: float
    """Mean images of a step."""

    @property
    def name(self) -> str:
        """`rank 2 (node7)`."""
        return f"rank {self.rank} ({self.host})"

    @property
    def waits(self) -> bool:
        """Whether it waits for others."""
        return self.doing[-1:] == [WAITING]

    @property
    def activity(self) -> str:
        """`loading images for 62 s: batch 3 of 9, data worker 0 (pid 77) has not answered`."""
        return self._activity(f" for {self.for_s:.0f} s")

    @property
    def last_activity(self) -> str:
        """The same of a rank that has fallen silent, without a time that means nothing any more."""
        return self._activity("")

    def _activity(self, duration: str) -> str:
        inner = [text for text in self.doing if text != TRAINING] or ["computing"]
        said = ", ".join(inner) + duration
        return f"{said}: {self.hint}" if self.hint and inner[-1] not in AWAY else said


@dataclass(frozen=True)
class Heard:
    """A rank's last word and its age."""

    word: Word
    ago_s: float


def awaited(heard: Sequence[Heard], size: int, silent_s: float) -> str:
    """What no step is made for: the ranks that are silent, else those that do not wait.

    Args:
        heard: the last word of each rank that has spoken, the speaker's own first.
        size: ranks in all.
        silent_s: age of a word from which on its rank counts as silent.
    """
    unheard = sorted(set(range(size)) - {each.word.rank for each in heard})
    silent = [each for each in heard[1:] if each.ago_s > silent_s]
    if silent or unheard:
        names = [
            f"{each.word.name}, whose last word was {each.ago_s:.0f} s ago, "
            f"{each.word.last_activity}"
            for each in silent
        ]
        return _waiting_for(
            names + [f"rank {rank}, which has not been heard of" for rank in unheard]
        )
    own = heard[0].word
    busy = [each.word for each in heard if not each.word.waits]
    if len(busy) == size:
        return own.activity
    if busy:
        return _waiting_for([f"{word.name}, {word.activity}" for word in busy])
    if size == 1:
        return own.activity
    return "all ranks wait for each other: is the network between them in order?"


def _waiting_for(names: Sequence[str]) -> str:
    more = f"; and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"waiting for {'; '.join(names[:NAMED])}{more}"


@dataclass
class Stragglers:
    """Says once that a rank has become slow, and once that it no longer is."""

    _slow: dict[int, int] = field(default_factory=dict)
    """Of each slow rank, the step at which it was found."""

    def judge(self, words: Sequence[Word]) -> list[str]:
        """Sentences about ranks whose state has changed.

        Each rank's time is a median over its last steps: a single slow step counts for nothing,
        and a rank is found when more than half of them were slow.
        """
        if len(words) < 2 or min(word.steps for word in words) < STEPS:
            return []
        # A rank that mostly has no image is no measure, and too quick to be a straggler.
        words = [word for word in words if word.images >= 1]
        return [said for word in words for said in self._judge(word, words)]

    def _judge(self, word: Word, words: Sequence[Word]) -> list[str]:
        others = [each for each in words if each is not word]
        if not others:
            return []
        usual_s = median(each.own_s for each in others)
        per_image = median(each.own_s / each.images for each in others)
        times = f"{word.own_s:.2g} s a step of its own work, the others {usual_s:.2g} s"
        if word.rank in self._slow:
            if word.own_s >= RECOVERED * usual_s:
                return []
            steps = word.step - self._slow.pop(word.rank)
            return [f"{word.name} is no longer slow, after {steps} steps: {times}"]
        slow = word.own_s > SLOW * usual_s and word.own_s - usual_s > LEAST_S
        if not slow or word.own_s / word.images < SLOW_PER_IMAGE * per_image:
            return []
        self._slow[word.rank] = word.step
        if word.loading_s > word.own_s / 2:
            times += f"; {word.loading_s:.2g} s of it go into {LOADING}"
        return [f"{word.name} is slow: {times}"]
