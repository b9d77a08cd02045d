"""`oaa view`: the page is written when it is missing or old, and a browser opens where one can."""

import os
import webbrowser
from pathlib import Path

import pytest

from dist_oaa.cli import run
from dist_oaa.config.errors import UserError
from dist_oaa.stages import view
from dist_oaa.stages.view import current_page, has_screen
from small_table import log_metrics


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run with two epochs, a picture and a folder of labels."""
    out = tmp_path / "run"
    log_metrics(out, "classify", {"cam/recall": 0.25}, {"cam/recall": 0.5})
    (out / "config.yaml").write_text("seed: 1\n")
    (out / "pictures" / "maps").mkdir(parents=True)
    (out / "pictures" / "attention.png").write_bytes(b"")
    (out / "labels").mkdir()
    return out


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The addresses that a browser was asked for; there is a screen, and a browser that obeys."""
    seen: list[str] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", lambda address: seen.append(address) or True)
    return seen


def later(path: Path, page: Path) -> None:
    """Makes a file a second younger than the page."""
    moment = page.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(moment, moment))


def test_a_missing_page_is_written_and_opened(folder, opened, capsys):
    assert run(["view", str(folder)]) == 0
    page = folder / "report.html"
    assert "recall, CAM" in page.read_text()
    assert opened == [page.as_uri()]
    assert capsys.readouterr().out == f"report: {page}\n"


def test_a_page_that_is_up_to_date_is_left_alone(folder, opened, capsys):
    current_page(folder)
    page = folder / "report.html"
    page.write_text("mine")
    assert run(["view", str(folder)]) == 0
    assert (page.read_text(), len(opened)) == ("mine", 1)
    assert capsys.readouterr().out == f"report: {page} (up to date)\n"


@pytest.mark.parametrize(
    "source", ["metrics.jsonl", "config.yaml", "pictures/attention.png", "labels"]
)
def test_an_old_page_is_written_anew(folder, source):
    page, _ = current_page(folder)
    later(folder / source, page)
    assert current_page(folder) == (page, True)


def test_what_the_page_does_not_show_makes_it_no_older(folder):
    page, _ = current_page(folder)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "latest.json").write_text("{}")
    later(folder / "checkpoints" / "latest.json", page)
    assert current_page(folder) == (page, False)


def test_the_stages_of_a_pipeline_count(folder):
    out = folder.parent
    (out / "pipeline.json").write_text(
        '{"title": "T", "stages": [{"name": "c", "stage": "classify", "folder": "run"}]}'
    )
    page, written = current_page(out)
    assert (page, written) == (out / "report.html", True)
    assert current_page(out) == (page, False)
    later(folder / "metrics.jsonl", page)
    assert current_page(out) == (page, True)


@pytest.mark.parametrize("flag", ["--no-open", "--no_open"])
def test_no_browser_on_request(folder, opened, flag):
    assert run(["view", str(folder), flag]) == 0
    assert opened == []
    assert (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("platform", "variables", "screen"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ""}, False),
        ("linux", {"DISPLAY": ":1"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"BROWSER": "firefox"}, True),
        ("darwin", {}, True),
        ("darwin", {"SSH_CONNECTION": "10.0.0.1 5 10.0.0.2 22"}, False),
    ],
)
def test_where_there_is_a_screen(platform, variables, screen):
    assert has_screen(platform, variables) is screen


def test_without_a_screen_the_path_is_all(folder, opened, monkeypatch):
    monkeypatch.setattr(view, "has_screen", lambda *_: False)
    assert run(["view", str(folder)]) == 0
    assert opened == []


def test_a_browser_that_does_not_start(folder, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    with pytest.raises(UserError, match=r"no browser could be started for .*report.html; --no-"):
        run(["view", str(folder)])
    assert (folder / "report.html").exists()


def test_no_run(tmp_path, opened):
    with pytest.raises(UserError, match="is no folder"):
        run(["view", str(tmp_path / "none")])
    with pytest.raises(UserError, match=r"has neither pipeline.json nor measurements"):
        run(["view", str(tmp_path)])
    assert opened == []
