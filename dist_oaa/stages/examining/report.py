"""What `oaa doctor` says: a table for each area, what to do, and all of it for a program."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dist_oaa import __version__
from dist_oaa.stages.examining.finding import Finding

FORMAT = 1
WIDEST = 100
STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
Areas = Mapping[str, list[Finding]]


def area_table(title: str, findings: list[Finding], width: int) -> Table:
    """The findings of an area; a column of times where something was tried."""
    timed = any(finding.seconds is not None for finding in findings)
    table = Table(title=title, title_justify="left", width=min(width, WIDEST))
    table.add_column("", overflow="fold", max_width=20)
    table.add_column("found", overflow="fold", ratio=1)
    if timed:
        table.add_column("time", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for finding in findings:
        seconds = "-" if finding.seconds is None else f"{finding.seconds:.2f} s"
        cells = [plain(finding.name), plain(finding.found), *([Text(seconds)] if timed else [])]
        table.add_row(*cells, Text(finding.state, style=STYLES[finding.state]))
    return table


def plain(text: str) -> Text:
    """Values come from the environment and from other programs: nothing in them is markup."""
    return Text("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))


def to_do(areas: Areas) -> Table | None:
    """What to do about each warning and problem, problems first; None where all is well."""
    rows = [f for findings in areas.values() for f in findings if f.state != "ok"]
    if not rows:
        return None
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in sorted(rows, key=lambda f: f.state != "problem"):
        sentence = plain(f"{finding.name}: {finding.advice}")
        table.add_row(Text(finding.state, style=STYLES[finding.state]), sentence)
    return table


def verdict(areas: Areas) -> str:
    """One line: how many problems and warnings."""
    count = Counter(finding.state for findings in areas.values() for finding in findings)
    problems, warnings = count["problem"], count["warning"]
    if not problems and not warnings:
        return f"all is well: {count['ok']} findings"
    return (
        f"{problems or 'no'} problem{'s' * (problems != 1)}, "
        f"{warnings or 'no'} warning{'s' * (warnings != 1)}"
    )


def is_fit(areas: Areas) -> bool:
    """Whether there is no problem."""
    return all(f.state != "problem" for findings in areas.values() for f in findings)


def show_area(console: Console, title: str, findings: list[Finding]) -> None:
    """Prints an area."""
    console.print(area_table(title, findings, console.width))


def conclude(console: Console, areas: Areas) -> None:
    """Prints what to do, then the verdict."""
    table = to_do(areas)
    if table is not None:
        console.print("what to do")
        console.print(table)
    console.print(verdict(areas))


def json_text(areas: Areas, settings: Mapping[str, Any]) -> str:
    """All of it for a program."""
    report = {
        "format": FORMAT,
        "dist_oaa": __version__,
        "settings": dict(settings),
        "fit": is_fit(areas),
        "areas": {
            name: [dataclasses.asdict(finding) for finding in findings]
            for name, findings in areas.items()
        },
    }
    return json.dumps(report, indent=1, ensure_ascii=False) + "\n"
