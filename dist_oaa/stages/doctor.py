"""`oaa doctor`: versions, devices, disk and network of this machine, and a self test.

Imports neither torch nor a store: what may fail or hang is asked of other processes, so that a
machine on which nothing works still gets its report. Exit code 0 without a problem, 1 otherwise.
"""

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from dist_oaa.config.doctor import DoctorConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.load import parse_config
from dist_oaa.runtime.files import write_atomic
from dist_oaa.stages.examining import devices, disk, kernels, network, report, system, versions
from dist_oaa.stages.examining.asking import Answer, Question, ask
from dist_oaa.stages.examining.finding import Finding, guarded, in_time
from dist_oaa.stages.examining.self_test import self_test

ASKING_S = 120.0
"""Longest time for importing torch and its neighbours, and for a driver to answer."""
LOOKING_S = 10.0
"""Longest time for what the system tells at once, unless a server is down."""
NO_DNS = "Add this machine's name to /etc/hosts: the DNS does not answer."


def main(prog: str, argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    config = parse_config(DoctorConfig, prog, argv)
    with ended_by_signals():
        areas = doctor(config, Console(file=sys.stdout, highlight=False))
    return 0 if report.is_fit(areas) else 1


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """A signal ends the command as an exception does: its processes and files go with it."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    previous = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def doctor(config: DoctorConfig, console: Console) -> dict[str, list[Finding]]:
    """Examines, prints and writes; returns what was found, by area.

    Raises:
        UserError: when the JSON file cannot be written.
    """
    areas: dict[str, list[Finding]] = {}
    clock, run_dir = system.Clock(), Path(config.run_dir)

    def add(title: str, findings: list[Finding]) -> None:
        areas[title] = findings
        report.show_area(console, title, findings)

    with console.status("asking torch and its neighbours") as status:
        answers = ask_torch()
        has_gpu = bool(answers["cuda"].value and answers["cuda"].value["available"])
        add("versions", about_versions(answers))
        add("devices", about_devices(answers, has_gpu))
        status.update("looking at disk and network")
        add("disk", about_disk(run_dir))
        add("network", about_network(answers, has_gpu))
        if config.self_test:
            add("self test", self_test(run_dir, lambda what: status.update(f"trying {what}")))
        # Last, so that the clock is watched for the length of the self test.
        add("system", about_system(clock, has_gpu))
    report.conclude(console, areas)
    if config.json:
        write_json(Path(config.json), report.json_text(areas, dataclasses.asdict(config)))
        console.print(f"all of it: {config.json}", markup=False, soft_wrap=True)
    return areas


def ask_torch() -> dict[str, Answer]:
    """By name, what is asked of torch and of packages that may not load."""
    questions: dict[str, Question] = {n: ("import", m) for n, m in versions.IMPORTED.items()}
    questions |= {name: (name,) for name in ("cuda", "backends", "native")}
    questions["compilation"] = ("triton",)
    return dict(zip(questions, ask(list(questions.values()), ASKING_S), strict=True))


def about_versions(answers: dict[str, Answer]) -> list[Finding]:
    """Packages."""
    imports = {name: answers[name] for name in versions.IMPORTED}
    return together(
        ("dist_oaa", versions.this_program),
        ("packages", lambda: versions.loaded(imports)),
        ("other packages", versions.read),
        ("requirements", versions.requirements),
    )


def about_devices(answers: dict[str, Answer], has_gpu: bool) -> list[Finding]:
    """Processor, memory, GPUs and the fast paths of the accumulation."""
    return together(
        ("processor", devices.processor),
        ("memory", devices.memory),
        ("GPU", lambda: devices.gpus(answers["cuda"])),
        ("Triton", lambda: kernels.triton(answers["compilation"], has_gpu)),
        ("C++ update", lambda: kernels.native(answers["native"])),
    )


def about_disk(run_dir: Path) -> list[Finding]:
    """The disk of the run directory, which may be on a server that is down."""
    checks: dict[str, Callable[[], Finding]] = {
        "free space": lambda: disk.space(run_dir),
        "file system": lambda: disk.file_system(run_dir),
        "writing": lambda: disk.stamps(run_dir),
    }
    found = [
        finding
        for name, check in checks.items()
        for finding in in_time(name, check, LOOKING_S, disk.DEAD)
    ]
    return found + guarded("shared memory", disk.shared_memory)


def about_network(answers: dict[str, Answer], has_gpu: bool) -> list[Finding]:
    """Backends, interfaces and the name of this machine."""
    found = guarded("backends", lambda: network.backends(answers["backends"], has_gpu))
    found += guarded("interfaces", network.interfaces)
    return found + in_time("host name", network.host_name, LOOKING_S, NO_DNS)


def about_system(clock: system.Clock, has_gpu: bool) -> list[Finding]:
    """File handles, the clock and environment variables."""
    return together(
        ("file handles", system.file_handles),
        ("clock", clock.finding),
        ("variables", lambda: system.variables(os.environ, has_gpu)),
    )


def together(*checks: tuple[str, Callable[[], Finding | list[Finding]]]) -> list[Finding]:
    """The findings of several checks, none of which can end the command."""
    return [finding for name, check in checks for finding in guarded(name, check)]


def write_json(path: Path, text: str) -> None:
    """Writes the file for a program.

    Raises:
        UserError: when it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Names may hold bytes that are no UTF-8: they are written as \udcXX.
        write_atomic(path, text.encode(errors="backslashreplace"))
    except OSError as error:
        raise UserError(f"json {path} cannot be written: {error.strerror or error}") from error
