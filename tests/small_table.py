"""A small table for the tests of `oaa reproduce`, and processes that only pretend to train."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

SMALL = {
    "title": "Small",
    "columns": ["recall"],
    "paper_columns": {"recall": "in %"},
    "scales": {"cpu": {"seeds": [0], "classify": {"settings": {"optim": {"epochs": 2}}}}},
    "runs": {"oaa": {"stage": "classify"}, "model": {"stage": "attend", "of": "oaa"}},
    "rows": [{"name": "OAA", "run": "oaa", "paper": {"recall": 52.3}}],
}


def write(folder: Path, tree: dict, name: str = "small.yaml") -> Path:
    """The tree as a YAML file."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def option(command: Sequence[str], name: str) -> str:
    """The value of an option of a command line."""
    return command[list(command).index(f"--{name}") + 1]


def log_metrics(run_dir: Path, stage: str, *epochs: dict[str, float | None]) -> None:
    """metrics.jsonl as a stage writes it, a training value between the measurements."""
    lines = []
    for number, metrics in enumerate(epochs):
        lines.append({"stage": stage, "epoch": number, "step": number, "train/loss": 0.5})
        head = {"stage": stage, "epoch": number, "step": number + 1, "closes_epoch": True}
        lines.append(head | metrics)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


class Pretended:
    """A process that has `polls` looks to live and then ends with `code`."""

    def __init__(self, code: int, polls: int = 0) -> None:
        self.code, self.polls, self.signals = code, polls, []

    def poll(self) -> int | None:
        return None if self.polls else self.code

    def wait(self, timeout: float | None = None) -> int:
        if self.polls and timeout is not None:
            self.polls -= 1
            raise subprocess.TimeoutExpired("pretended", timeout)
        return self.code

    def terminate(self) -> None:
        self.signals.append("TERM")

    def kill(self) -> None:
        self.signals.append("KILL")
        self.polls = 0


class Launcher:
    """Pretends to run commands and remembers them.

    Args:
        behave: called with (command, log, run_dir); writes what the run would write and returns
            its exit code or a Pretended.
    """

    def __init__(self, behave: Callable[[Sequence[str], Path, Path], int | Pretended]) -> None:
        self.behave, self.commands = behave, []

    def __call__(self, command: Sequence[str], log: Path) -> Pretended:
        self.commands.append(list(command))
        result = self.behave(command, log, Path(option(command, "run_dir")))
        return Pretended(result) if isinstance(result, int) else result
