"""What is printed and written."""

import json

from rich.console import Console

from dist_oaa.stages.examining import report
from dist_oaa.stages.examining.finding import Finding

LONG = "x" * 300
AREAS = {
    "disk": [
        Finding("free space", "1 GiB", "warning", "Make room.", facts={"free": 1}),
        Finding("TORCH_NCCL_ASYNC_ERROR_HANDLING_AND_MORE", f"[red]{LONG}[/] \x1b[2J\n", "ok"),
    ],
    "self test": [
        Finding("store", "failed: [/] no locks", "problem", "Move [it]. " * 20, seconds=1.234),
        Finding("network", "forward", seconds=0.5),
        Finding("two", "met"),
    ],
}


def printed(areas, width: int = 80) -> str:
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as captured:
        for title, findings in areas.items():
            report.show_area(console, title, findings)
        report.conclude(console, areas)
    return captured.get()


def test_eighty_columns_are_enough():
    text = printed(AREAS)
    assert max(map(len, text.splitlines())) <= 80
    assert sum(line.count("x") for line in text.splitlines()) >= 300
    assert "1.23 s" in text
    assert report.area_table("disk", AREAS["disk"], 300).width == report.WIDEST


def test_values_are_no_markup_and_move_no_cursor():
    text = printed(AREAS)
    assert "[red]" in text
    assert "[/] no locks" in text
    assert "\x1b" not in text
    assert r"\x1b[2J\n" in text.replace("\n", "").replace("│", "").replace(" ", "")


def test_what_to_do_begins_with_the_problems():
    text = printed(AREAS)
    todo = text[text.index("what to do") :]
    assert todo.index("problem store: Move [it].") < todo.index("warning free space: Make room.")
    assert todo.splitlines()[-1] == "1 problem, 1 warning"


def test_the_verdict():
    ok, warning, problem = (Finding("a", "b", s) for s in ("ok", "warning", "problem"))
    assert report.verdict({"x": [ok], "y": [ok]}) == "all is well: 2 findings"
    assert report.verdict({"x": [ok, warning], "y": [warning]}) == "no problems, 2 warnings"
    assert report.verdict({"x": [problem, problem]}) == "2 problems, no warnings"
    assert report.is_fit({"x": [ok, warning]})
    assert not report.is_fit({"x": [ok], "y": [problem]})
    assert report.to_do({"x": [ok]}) is None


def test_json_holds_all_of_it():
    written = json.loads(report.json_text(AREAS, {"run_dir": "runs"}))
    assert written["fit"] is False
    assert written["settings"] == {"run_dir": "runs"}
    assert list(written["areas"]) == ["disk", "self test"]
    for title, findings in AREAS.items():
        assert [Finding(**fields) for fields in written["areas"][title]] == findings
