"""What a check has found, and how a check is kept from ending or freezing the command."""

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "warning", "problem"]
OWN_FAULT = "Please report this, together with what --json writes."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at or tried."""

    name: str
    found: str
    """What there is, in a few words."""
    state: State = "ok"
    """warning: runs work, but slower or at some risk; problem: runs will fail."""
    advice: str = ""
    """One sentence what to do; empty where all is well."""
    seconds: float | None = None
    """How long it was tried; None for what was only looked at."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The same for a program; whatever JSON can hold."""


Check = Callable[[], Finding | list[Finding]]


def guarded(name: str, check: Check) -> list[Finding]:
    """The findings of a check; one problem where the check itself fails."""
    try:
        found = check()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        facts = {"traceback": traceback.format_exc()}
        return [Finding(name, f"this check failed: {reason}", "problem", OWN_FAULT, facts=facts)]
    return [found] if isinstance(found, Finding) else found


def in_time(name: str, check: Check, limit_s: float, advice: str) -> list[Finding]:
    """As `guarded`; one problem, with this advice, where a check gives no answer in time.

    In a thread that is left behind then: a dead file server holds whoever asks it for minutes.
    """
    found: list[list[Finding]] = []
    thread = threading.Thread(target=lambda: found.append(guarded(name, check)), daemon=True)
    thread.start()
    thread.join(limit_s)
    if found:
        return found[0]
    return [Finding(name, f"no answer within {limit_s:g} s", "problem", advice)]


def size_text(size: float) -> str:
    """A number of bytes for people: 53.1 GiB."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB" if size < 1024 else f"{size / 1024:.1f} TiB"
