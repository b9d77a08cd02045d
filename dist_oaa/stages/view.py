"""`oaa view RUN`: the report page of a run, made where it is missing or old, in the browser.

Nothing is served: the page is one file that needs no other.
"""

import os
import sys
import webbrowser
from collections.abc import Iterator, Mapping
from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.config.load import run_function
from dist_oaa.stages.launching.records import PIPELINE
from dist_oaa.stages.page.runs import open_runs
from dist_oaa.stages.report import PAGE, write_report


def main(prog: str, argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    # As people type it; the names of settings have underscores.
    run_function(view, prog, ["--no_open" if word == "--no-open" else word for word in argv])
    return 0


def view(folder: Path, no_open: bool = False) -> None:
    """Open the report page of a run in the browser; it is written first where it is missing or old.

    Args:
        folder: run directory of a stage, or the folder of `oaa pipeline`.
        no_open: write the page and print where it lies, and open no browser, as on a machine that
            has no screen.
    """
    page, written = current_page(folder)
    print(f"report: {page}{'' if written else ' (up to date)'}")
    if not no_open and has_screen(sys.platform, os.environ):
        open_in_browser(page)


def current_page(folder: Path) -> tuple[Path, bool]:
    """The page, and whether it had to be written.

    Raises:
        UserError: when the folder is no run, or the page cannot be written.
    """
    page = folder / PAGE
    if not folder.is_dir() or not page.is_file():
        return write_report(folder), True
    made = page.stat().st_mtime_ns
    if all(path.stat().st_mtime_ns <= made for path in sources(folder)):
        return page, False
    return write_report(folder), True


def sources(folder: Path) -> Iterator[Path]:
    """What the page shows: the runs' own files, their pictures, and their folders of labels.

    Raises:
        UserError: when the folder is no run.
    """
    _, runs = open_runs(folder)
    if (folder / PIPELINE).exists():
        yield folder / PIPELINE
    for run in runs:
        yield from (p for p in run.folder.iterdir() if p.is_file() and p.name != PAGE)
        yield from (run.folder / "pictures").rglob("*.*")
        # Names appear in and vanish from it: one look instead of thousands.
        yield from (p for p in [run.folder / "labels"] if p.is_dir())


def has_screen(platform: str, variables: Mapping[str, str]) -> bool:
    """Whether a browser could show anything; without a screen, text browsers take the terminal."""
    if platform in ("darwin", "win32"):
        return "SSH_CONNECTION" not in variables
    return any(variables.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))


def open_in_browser(page: Path) -> None:
    """Shows a file.

    Raises:
        UserError: when there is no browser, or it does not start.
    """
    try:
        opened = webbrowser.open(page.resolve().as_uri())
    except webbrowser.Error:
        opened = False
    if not opened:
        raise UserError(f"no browser could be started for {page}; --no-open only writes it")
