"""Places in the program where a test or `tools/chaos.py` may make something go wrong.

    OAA_FAULT="POINT=ACTION[,rank=R][,hit=N][,once=FILE]"     several joined by ";"

    OAA_FAULT="store.commit.before=kill,rank=1,hit=3" torchrun ... -m dist_oaa classify ...

Rank 1 kills itself as it passes `store.commit.before` for the third time. Actions: `kill`
(SIGKILL), `term` (SIGTERM), `stop` (SIGSTOP), `enospc` and `eio` (raise that OSError),
`sleep:SECONDS`, `exit:CODE` (at once, without clean-up) and `abort`. `rank` is any rank when it is
left out, `hit` is 1. With `once=FILE` the fault strikes only if FILE does not exist, and makes it:
a run that is started again does not die of the same fault again.

Where OAA_FAULT is not set a point costs one test of a flag.
"""

import errno
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dist_oaa.config.errors import UserError

VARIABLE = "OAA_FAULT"

POINTS = {
    "data.read": "an image is about to be read, by a data worker or by the rank where it has none",
    "loop.step.before": "gradients are summed, the optimiser has not stepped",
    "loop.step.after": "the optimiser has stepped, nothing is counted or logged yet",
    "loop.epoch.before": "the last step of an epoch is done, nothing is measured yet",
    "loop.epoch.after": "an epoch is measured and logged, its checkpoint is not begun",
    "tracking.line.before": "a line of metrics.jsonl is about to be written",
    "tracking.line.after": "a line of metrics.jsonl is written",
    "saver.write.before": "a rank's thread is about to make its maps durable",
    "saver.write.after": "a rank's maps are durable, other ranks' may not be",
    "store.shard": "between two shards: a rank is about to commit one of them",
    "store.commit.before": "the records of a shard are written, their transaction is still open",
    "store.commit.after": "the transaction of a shard is durable",
    "store.copy.fsync": "a shard of store.local_dir is copied, the copy is not yet on the disk",
    "store.repair.write": "the records of a repaired shard are written, nothing is durable yet",
    "store.repair.swap": "a repaired shard is on the disk, the damaged one still has its name",
    "checkpoint.publish": "all maps are durable, the folder of the checkpoint is not begun",
    "checkpoint.fsync": "a tensor file of a checkpoint is written, not yet on the disk",
    "checkpoint.folder.before": "the folder of a checkpoint is complete under a temporary name",
    "checkpoint.folder.after": "the folder has its name, latest.json still names the one before",
    "checkpoint.latest.before": "the folder is on the disk, latest.json is about to be replaced",
    "checkpoint.latest.after": "the checkpoint is published, older ones are not yet removed",
    "files.fsync": "a small file (latest.json, too) has a temporary name, is not yet on the disk",
    "files.rename": "a small file is on the disk under its temporary name",
}
"""Every point's name with what has happened there and what has not."""


@dataclass
class Fault:
    """One fault that has been asked for."""

    point: str
    action: str
    """Name of the action and its argument, as in `sleep:2`."""
    rank: int | None = None
    """The rank that it strikes; None for any."""
    hit: int = 1
    """It strikes as a process passes the point for this time, counted from 1."""
    once: str = ""
    """File that tells later processes that it has struck; empty for none."""
    passed: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)

    def strikes(self) -> bool:
        """Whether it strikes now; called at every pass of its point."""
        if self.rank is not None and self.rank != int(os.environ.get("RANK", "0")):
            return False
        # next() of a count is one instruction: threads that pass at once get different numbers.
        return next(self.passed) == self.hit and (not self.once or _first(self.once))

    def strike(self) -> None:
        """Does what was asked for; returns only from `sleep`, `term` and, continued, `stop`.

        Raises:
            OSError: for `enospc` and `eio`.
        """
        name, _, argument = self.action.partition(":")
        ACTIONS[name](self.point, argument)


def fault_point(name: str) -> None:
    """Marks a place where OAA_FAULT may strike; does nothing unless it asks for this place.

    Raises:
        OSError: where OAA_FAULT asks for one.
        UserError: when OAA_FAULT cannot be read.
    """
    if _asked:
        _pass(name)


def read_faults(text: str) -> list[Fault]:
    """The faults that a value of OAA_FAULT asks for.

    Raises:
        UserError: for an unknown point, action or option, or a number that is none.
    """
    return [_read(part.strip()) for part in text.split(";") if part.strip()]


def arm_faults() -> None:
    """Reads OAA_FAULT as it stands now, and counts from here on; every run begins with it.

    Raises:
        UserError: when it cannot be read.
    """
    global _asked, _faults
    text = os.environ.get(VARIABLE, "")
    _asked, _faults = bool(text), None
    _planned()


def _read(text: str) -> Fault:
    head, *options = text.split(",")
    point, equals, action = head.partition("=")
    if not equals or point not in POINTS:
        raise _mistake(text, f"{point!r} is no fault point, expected one of {', '.join(POINTS)}")
    name, _, argument = action.partition(":")
    if name not in ACTIONS:
        raise _mistake(text, f"{name!r} is no action, expected one of {', '.join(ACTIONS)}")
    if (name in NUMBERS) != bool(argument) or (argument and not _is_number(name, argument)):
        raise _mistake(text, "expected sleep:SECONDS, exit:CODE, or an action without a number")
    fault = Fault(point, action)
    for option in options:
        key, _, value = option.partition("=")
        if key == "once" and value:
            fault.once = value
        elif key in ("rank", "hit") and value.isascii() and value.isdigit():
            setattr(fault, key, int(value))
        else:
            raise _mistake(text, f"{option!r} is not rank=R, hit=N or once=FILE")
    if fault.hit < 1:
        raise _mistake(text, "hit is counted from 1")
    return fault


def _is_number(action: str, text: str) -> bool:
    try:
        return 0 <= NUMBERS[action](text) < (256 if action == "exit" else float("inf"))
    except ValueError:
        return False


def _mistake(text: str, problem: str) -> UserError:
    return UserError(f"{VARIABLE}={text!r}: {problem}")


def _first(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _pass(name: str) -> None:
    assert name in POINTS, f"the fault point {name} is not in the list"
    # All count this pass before one of them ends it.
    for fault in [fault for fault in _planned() if fault.point == name and fault.strikes()]:
        fault.strike()


def _planned() -> list[Fault]:
    global _faults
    if _faults is None:
        _faults = read_faults(os.environ.get(VARIABLE, ""))
    return _faults


def _send(number: signal.Signals) -> Callable[[str, str], None]:
    return lambda _point, _argument: os.kill(os.getpid(), number)


def _fail(number: int) -> Callable[[str, str], None]:
    def fail(point: str, _argument: str) -> None:
        raise OSError(number, os.strerror(number), f"({VARIABLE} at {point})")

    return fail


ACTIONS: dict[str, Callable[[str, str], None]] = {
    "kill": _send(signal.SIGKILL),
    "term": _send(signal.SIGTERM),
    "stop": _send(signal.SIGSTOP),
    "enospc": _fail(errno.ENOSPC),
    "eio": _fail(errno.EIO),
    "sleep": lambda _point, seconds: time.sleep(float(seconds)),
    "exit": lambda _point, code: os._exit(int(code)),
    "abort": lambda _point, _argument: os.abort(),
}
NUMBERS: dict[str, Callable[[str], float]] = {"sleep": float, "exit": int}

_asked = bool(os.environ.get(VARIABLE))
# None until the first use: what is wrong with it is said by the command line, not by an import.
_faults: list[Fault] | None = None
