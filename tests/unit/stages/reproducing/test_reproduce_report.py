"""Finished runs as a table: means and deviations by hand, Markdown, CSV and pictures."""

import csv
import io
import math
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from dist_oaa.stages.launching.records import Record, said
from dist_oaa.stages.reproducing.planning import Request, make_plan
from dist_oaa.stages.reproducing.plots import curves, draw, mean_curve
from dist_oaa.stages.reproducing.report import csv_text, footnotes, markdown, rich_table
from dist_oaa.stages.reproducing.results import Cell, TableResult, collect
from dist_oaa.stages.reproducing.tables import read_table
from small_table import SMALL, log_metrics, write

TREE = SMALL | {
    "title": "Quality",
    "caption": "What is measured.",
    "columns": ["recall", "noise", "seed_miou", "label_miou"],
    "paper_columns": {"recall": "recall of the paper", "miou": "of a segmenter"},
    "scales": {"cpu": {"seeds": [0, 1, 2]}},
    "rows": [
        {"name": "CAM", "run": "oaa", "maps": "cam", "paper": {"recall": 36.7, "miou": None}},
        {"name": "OAA", "run": "oaa"},
        {"name": "model", "run": "model"},
    ],
}


def result_of(tmp_path: Path, figures: dict, tree: dict = TREE) -> TableResult:
    """The table with the classify metrics of each seed; the attend runs are not there."""
    table = read_table(write(tmp_path, tree))
    seeds = table.scales["cpu"].seeds
    plan = make_plan(table, Request(tmp_path / "out", tmp_path, "cpu"))

    def find(run) -> Record | None:
        if run.stage != "classify" or run.seed not in figures:
            return None
        record = Record(run.name, run.stage, run.seed, run.identity, {}, True)
        record.metrics, record.machine, record.workers = figures[run.seed], "a machine", 2
        record.versions, record.seconds = "dist_oaa 1", 61
        record.images, record.supervision = "24 images, 6 classes", ["supervision: image-level"]
        return record

    return collect(table, plan, "cpu", seeds, find)


# Recall .50 .53 .59: mean .54, squared distances 16 + 1 + 25 = 42, /2 = 21, sd 4.58 points.
FIGURES = {
    0: {"cam/recall": 0.50, "cam/noise": 0.1, "cumulative/recall": 0.7, "cam/seed_miou": None},
    1: {"cam/recall": 0.53, "cam/noise": 0.1, "cumulative/recall": 0.8},
    2: {"cam/recall": 0.59, "cam/noise": None, "cumulative/recall": 0.9},
}


def test_mean_and_sample_deviation_by_hand(tmp_path):
    cam, oaa, model = result_of(tmp_path, FIGURES).rows
    assert cam.cells["recall"].mean == pytest.approx(54)
    assert cam.cells["recall"].deviation == pytest.approx(math.sqrt(21))
    assert str(cam.cells["recall"]) == "54.0±4.6"
    assert str(cam.cells["noise"]) == "10.0±0.0"  # the third seed has none
    assert str(cam.cells["seed_miou"]) == "-"
    assert str(oaa.cells["recall"]) == "80.0±10.0"
    assert str(model.cells["recall"]) == "-"
    assert (len(cam.runs), len(model.runs)) == (3, 0)
    assert math.isnan(Cell((1.0,)).deviation)
    assert str(Cell((1.04,))) == "1.0"


def test_markdown(tmp_path):
    text = markdown(result_of(tmp_path, FIGURES), "oaa reproduce small", "small.png")
    lines = text.splitlines()
    assert lines[0] == "# Quality"
    # Nothing was measured with saliency: no column for it.
    assert "| row | paper recall | paper miou | recall | noise | seed mIoU | runs |" in lines
    assert "| --- | ---: | ---: | ---: | ---: | ---: | ---: |" in lines
    assert "| CAM | 36.7 | - | 54.0±4.6 | 10.0±0.0 | - | 3 |" in lines
    assert "| OAA | - | - | 80.0±10.0 | - | - | 3 |" in lines
    assert "| model | - | - | - | - | - | 0 |" in lines
    for part in (
        "- What is measured.",
        "- paper recall: recall of the paper",
        "- A dash in a paper column: the number is not available",
        "- A dash in a measured column: not run yet, failed, or not measured.",
        "± is the sample standard deviation",
        "![Quality](small.png)",
        "```\noaa reproduce small\n```",
        "- scale cpu; seeds 0, 1, 2",
        "- images: 24 images, 6 classes",
        "- classify: supervision: image-level",
        "- machine: a machine; 2 processes a run",
        "- versions: dist_oaa 1",
        "- time of these runs together: 3:03",
    ):
        assert part in text, part
    assert text.count("| CAM, OAA | 1:01 |") == 3


def test_csv_has_a_line_for_each_row_and_seed(tmp_path):
    rows = list(csv.DictReader(io.StringIO(csv_text(result_of(tmp_path, FIGURES)))))
    assert len(rows) == 9
    second = rows[1]
    assert second.pop("run").startswith("oaa-cpu-seed1-")
    assert second == {
        "table": "small",
        "scale": "cpu",
        "row": "CAM",
        "maps": "cam",
        "seed": "1",
        "recall": "53.0000",
        "noise": "10.0000",
        "seed_miou": "",
        "paper_recall": "36.7000",
        "paper_miou": "",
    }
    assert (rows[8]["row"], rows[8]["recall"], rows[8]["run"]) == ("model", "", "")


def test_the_label_column_appears_with_a_figure(tmp_path):
    one = {0: {"cam/recall": 0.5, "cam/label_miou": 0.25}}
    tree = TREE | {"rows": TREE["rows"][:1], "scales": {"cpu": {}}}
    result = result_of(tmp_path, one, tree)
    assert result.columns == ("recall", "noise", "seed_miou", "label_miou")
    assert result.complete
    notes = " ".join(footnotes(result))
    assert "±" not in notes
    assert "measured column" not in notes


def test_the_terminal_of_80_columns_holds_the_widest_table(tmp_path):
    kinds = ("cam", "cumulative")
    full = {f"{kind}/{column}": 0.5 for kind in kinds for column in TREE["columns"]}
    figures = dict.fromkeys(range(3), full)
    printed = io.StringIO()
    table = rich_table(result_of(tmp_path, figures))
    Console(file=printed, width=80).print(table)
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    (cam,) = [line for line in lines if line.startswith("CAM")]
    assert cam.split() == ["CAM", "36.7", "-", *["50.0±0.0"] * 4, "3"]


def test_what_a_stage_said():
    log = "a\n24 images, 6 classes\nx\nsupervision: one\n  two\n  three\nmaps: y\n"
    assert said(log) == ("24 images, 6 classes", ["supervision: one", "two", "three"])
    assert said("nothing\n") == ("", [])


def test_curves_over_the_epochs(tmp_path):
    plot = {"kind": "epochs", "columns": ["recall", "noise"]}
    tree = TREE | {"plot": plot, "scales": {"cpu": {"seeds": [0, 1]}}}
    result = result_of(tmp_path, FIGURES, tree)
    for run, _ in result.rows[0].runs.values():
        values = (None, 0.25, 0.5) if run.seed else (0.125, 0.75, 0.5)
        log_metrics(run.folder, "classify", *({"cam/recall": value} for value in values))
    first, second = curves(result.rows[0], "recall")
    assert first == [(1, 12.5), (2, 75.0), (3, 50.0)]
    assert second == [(2, 25.0), (3, 50.0)]
    assert mean_curve([first, second]) == [(2, 50.0), (3, 50.0)]
    assert mean_curve([]) == []
    assert curves(result.rows[2], "recall") == []
    assert_is_a_picture(result, tmp_path)


def assert_is_a_picture(result: TableResult, folder: Path) -> None:
    """Something is drawn, in more colours than axes and text have."""
    assert draw(result, folder / "x.png")
    with Image.open(folder / "x.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 20)
    vivid = [count for count, (r, g, b) in colours if max(r, g, b) - min(r, g, b) > 100]
    assert sum(vivid) > 100
    assert not list(folder.glob(".*part"))


def test_lines_over_a_setting(tmp_path):
    groups = {"delta": "delta at beta 0.5", "beta": "beta at delta 0.6"}
    tree = TREE | {"plot": {"kind": "sweep", "columns": ["recall"], "groups": groups}}
    rows = [
        {"name": "a", "run": "oaa", "maps": "cam", "group": "delta", "x": 0.5},
        {"name": "b", "run": "oaa", "group": "delta", "x": 0.1},
        {"name": "c", "run": "model", "group": "beta", "x": 0.1},
    ]
    assert_is_a_picture(result_of(tmp_path, FIGURES, tree | {"rows": rows}), tmp_path)


def test_nothing_is_drawn_before_there_is_a_run(tmp_path):
    plot = {"kind": "epochs", "columns": ["recall"]}
    assert not draw(result_of(tmp_path, {}, TREE | {"plot": plot}), tmp_path / "x.png")
    assert not draw(result_of(tmp_path, FIGURES), tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_a_row_of_the_paper_alone(tmp_path):
    rows = [
        {"name": "CAM", "run": "oaa", "maps": "cam"},
        {"name": "SPG", "paper": {"recall": 46.64}},
    ]
    result = result_of(tmp_path, FIGURES, TREE | {"rows": rows})
    assert result.complete
    (line,) = [line for line in markdown(result, "x").splitlines() if line.startswith("| SPG")]
    assert [cell.strip() for cell in line.strip("|").split("|")][:3] == ["SPG", "46.64", "-"]
    assert line.endswith("| 0 |")
    assert any("the paper's numbers alone" in note for note in footnotes(result))
