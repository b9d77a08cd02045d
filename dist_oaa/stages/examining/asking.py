"""Questions to a process of its own: one that hangs, or dies of a signal, costs its answer only.

Whatever imports torch, asks a driver or maps a file is answered there (answering.py). The process
never outlives this one, and is killed when its time is over.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dist_oaa.runtime.signals import die_with_parent
from dist_oaa.stages.launching.processes import describe_exit, environment

Question = tuple[str, ...]
"""Name of a question of answering.py and its arguments."""
ANSWERING = "dist_oaa.stages.examining.answering"
LAST_WORDS_S = 5.0
"""How long a killed process is waited for."""


@dataclass(frozen=True)
class Answer:
    """What a question brought."""

    value: Any = None
    error: str = ""
    """Why there is no value."""
    seconds: float = 0.0
    """Time of the answer, without that of starting Python and importing."""


@dataclass(frozen=True)
class Ended:
    """What is left of a process."""

    output: str
    reason: str
    """How it ended, if not by exit code 0, and its last words."""


def ask(questions: Sequence[Question], limit_s: float) -> list[Answer]:
    """The answers, in order. A question whose process dies is passed over by the next process.

    Args:
        limit_s: for one process; all of them together get twice as long.
    """
    answers: list[Answer] = []
    deadline = time.monotonic() + 2 * limit_s
    while len(answers) < len(questions):
        left_s = min(limit_s, deadline - time.monotonic())
        if left_s <= 0:
            answers.append(Answer(error="not tried: those before it took all the time"))
            continue
        rest = [json.dumps(question) for question in questions[len(answers) :]]
        try:
            process = start([sys.executable, "-m", ANSWERING, *rest])
        except OSError as error:
            answers.append(Answer(error=f"no process could be started: {error.strerror or error}"))
            continue
        ended = finish([process], left_s)[0]
        answers += [Answer(**json.loads(line)) for line in ended.output.splitlines()]
        if len(answers) < len(questions):
            answers.append(Answer(error=ended.reason or "its process ended without an answer"))
    return answers


def start(
    command: Sequence[str], handles: Sequence[int] = (), **variables: str
) -> subprocess.Popen:
    """Starts a process in a session of its own, its output in pipes.

    Args:
        handles: of open files that it inherits.
        variables: of its environment, over this process's own.
    """
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(os.environ) | variables,
        pass_fds=tuple(handles),
        start_new_session=True,
        preexec_fn=die_with_parent if sys.platform.startswith("linux") else None,
    )


def finish(processes: Sequence[subprocess.Popen], limit_s: float) -> list[Ended]:
    """Waits for processes, and kills at the end of the time, or of this function, those that run.

    They may write no more than a pipe holds (64 KiB) while another one is waited for.
    """
    deadline = time.monotonic() + limit_s
    try:
        return [_finish(p, max(0.0, deadline - time.monotonic()), limit_s) for p in processes]
    finally:
        for process in processes:
            _kill(process)


def _finish(process: subprocess.Popen, left_s: float, limit_s: float) -> Ended:
    output, errors, reason = b"", b"", ""
    try:
        output, errors = process.communicate(timeout=left_s)
    except subprocess.TimeoutExpired:
        reason = f"no answer within {limit_s:.0f} s"
        _kill(process, and_close=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            output, errors = process.communicate(timeout=LAST_WORDS_S)
    if not reason and process.returncode:
        said = [line.strip() for line in errors.decode(errors="replace").splitlines()]
        last = next((line for line in reversed(said) if line), "")
        reason = describe_exit(process.returncode) + (f": {last}" if last else "")
    return Ended(_whole_lines(output.decode(errors="replace")), reason)


def _whole_lines(text: str) -> str:
    return text[: text.rfind("\n") + 1]


def _kill(process: subprocess.Popen, and_close: bool = True) -> None:
    if process.poll() is None:
        # It leads a group of its own, with whatever it has started.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LAST_WORDS_S)
    for pipe in (process.stdout, process.stderr):
        if and_close and pipe is not None:
            pipe.close()
