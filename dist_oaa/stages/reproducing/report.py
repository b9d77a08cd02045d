"""The table for the terminal, for a Markdown file and for a program."""

import csv
import io
import math
from collections.abc import Iterable

from rich import box
from rich.table import Table as RichTable

from dist_oaa.runtime.csv_cells import guarded
from dist_oaa.stages.launching.progress import clock
from dist_oaa.stages.reproducing.results import RowResult, TableResult

HEADINGS = {
    "recall": "recall",
    "noise": "noise",
    "seed_miou": "seed\nmIoU",
    "label_miou": "label\nmIoU",
    "dense_label_miou": "all\npixels",
    "label_ignored": "label\nignored",
    "top1": "top-1\nloc.",
    "top5": "top-5\nloc.",
    "gt_known": "GT-\nknown",
    "max_box_acc": "MaxBox\nAcc",
    "max_box_acc_v2": "MaxBox\nAccV2",
    "max_box_acc_swept": "swept\nAcc",
    "max_box_acc_v2_swept": "swept\nAccV2",
    "pxap": "PxAP",
}
MEANINGS = {
    "recall": "recall, noise: share of an object's pixels inside the map at half its maximum, and "
    "of the map's pixels outside the object; mean over the classes that occur, in %.",
    "seed_miou": "seed mIoU: the maps cut at the best of the tried background thresholds (chosen "
    "on the same masks), background included, in %.",
    "label_miou": "label mIoU: pseudo labels from the maps and saliency by the public recipe, "
    "ignored pixels left out, in %.",
    "label_ignored": "label ignored: share of the pixels that these labels ignore; where it is "
    "large, label mIoU says little.",
    "top1": "top-1, top-5 loc.: share of the images of which one of the k most probable classes is "
    "right and the box of that class has IoU >= 0.5 with a true one, in %.",
    "gt_known": "GT-known: share of the images in which the box of the true class has IoU >= 0.5, "
    "in %.",
    "max_box_acc_v2": "MaxBoxAccV2: the same for the best box of any component, mean over IoU "
    ">= 0.3, 0.5, 0.7. These thresholds were chosen on a validation list, or fixed, and never on "
    "the images that are reported.",
    "max_box_acc_v2_swept": "swept AccV2: MaxBoxAccV2 as published, with the thresholds that are "
    "best for the reported images themselves: an upper bound.",
    "pxap": "PxAP: average precision of the pixels inside the object, in %.",
    "dense_label_miou": "all pixels: mIoU of the same labels with nothing ignored, in %.",
}


def heading(column: str) -> str:
    """A column's heading, at most two lines."""
    return HEADINGS.get(column, column.replace("_", "\n", 1))


def paper_cell(value: float | None) -> str:
    """A number of the papers as it is written there, a dash where no source is known."""
    return "-" if value is None else f"{value:g}"


def rich_table(result: TableResult) -> RichTable:
    """The table for a terminal of 80 columns."""
    table = RichTable(
        title=f"{result.table.title}, scale {result.scale}, in %",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("row", overflow="fold", max_width=24)
    for column in result.table.paper_columns:
        table.add_column(f"paper\n{heading(column)}", justify="right", style="dim")
    for column in result.columns:
        table.add_column(heading(column), justify="right", no_wrap=True)
    table.add_column("runs", justify="right")
    for row in result.rows:
        table.add_row(*cells_of(result, row))
    return table


def cells_of(result: TableResult, row: RowResult) -> list[str]:
    """A row's texts: name, papers' numbers, measured ones, number of runs."""
    papers = [paper_cell(row.row.paper.get(column)) for column in result.table.paper_columns]
    measured = [str(row.cells[column]) for column in result.columns]
    return [row.row.name, *papers, *measured, str(len(row.runs))]


def footnotes(result: TableResult) -> list[str]:
    """What a reader has to know, a sentence or two each."""
    notes = [result.table.caption] if result.table.caption else []
    for column, meaning in result.table.paper_columns.items():
        notes.append(f"paper {heading(column).replace(chr(10), ' ')}: {meaning}")
    papers = [r.row.paper.get(column) for r in result.rows for column in result.table.paper_columns]
    if None in papers:
        notes.append("A dash in a paper column: the number is not available to this project.")
    notes += [MEANINGS[column] for column in result.columns if column in MEANINGS]
    if any(len(cell.values) > 1 for row in result.rows for cell in row.cells.values()):
        notes.append("± is the sample standard deviation over the seeds (`runs` many).")
    if any(not row.row.run for row in result.rows):
        notes.append("A row of 0 runs: the paper's numbers alone; this project lacks the method.")
    if not result.complete:
        notes.append("A dash in a measured column: not run yet, failed, or not measured.")
    return notes


def markdown(result: TableResult, command: str, picture: str = "") -> str:
    """The table with its caption and all that it takes to make it again.

    Args:
        command: the command line that made it.
        picture: name of a picture beside the file; empty for none.
    """
    columns = [f"paper {heading(c)}" for c in result.table.paper_columns]
    columns += [heading(column) for column in result.columns]
    titles = [name.replace("\n", " ") for name in ["row", *columns, "runs"]]
    lines = [f"# {result.table.title}", ""]
    lines += ["| " + " | ".join(titles) + " |", "| --- |" + " ---: |" * (len(titles) - 1)]
    lines += ["| " + " | ".join(cells_of(result, row)) + " |" for row in result.rows]
    lines += ["", "All figures in %.", ""]
    lines += [f"- {note}" for note in footnotes(result)]
    if picture:
        lines += ["", f"![{result.table.title}]({picture})"]
    lines += ["", "## How it was made", "", "```", command, "```", ""]
    lines += [f"- {line}" for line in circumstances(result)]
    lines += ["", *runs_of(result)]
    return "\n".join(lines).rstrip() + "\n"


def circumstances(result: TableResult) -> list[str]:
    """Scale, images, seeds, supervision, machine and versions of the finished runs."""
    records = [record for _, record in result.records()]
    seeds = ", ".join(map(str, result.seeds))
    lines = [f"scale {result.scale}; seeds {seeds}"]
    lines += unique(f"images: {record.images}" for record in records if record.images)
    first_of_stage = {record.stage: record for record in reversed(records)}
    for stage, record in sorted(first_of_stage.items()):
        lines += [f"{stage}: {line}" for line in record.supervision]
    lines += unique(f"machine: {r.machine}; {r.workers} processes a run" for r in records)
    lines += unique(f"versions: {record.versions}" for record in records)
    if records:
        lines.append(f"time of these runs together: {clock(sum(r.seconds for r in records))}")
    return lines


def runs_of(result: TableResult) -> list[str]:
    """A Markdown table of the runs behind the rows."""
    lines = ["| run directory | rows | time |", "| --- | --- | ---: |"]
    for run, record in result.records():
        rows = [
            r.row.name
            for r in result.rows
            if any(other.identity == run.identity for other, _ in r.runs.values())
        ]
        lines.append(f"| {run.folder.name} | {', '.join(rows)} | {clock(record.seconds)} |")
    return lines


def csv_text(result: TableResult) -> str:
    """One line a row and seed; percent to four places, empty where there is no figure."""
    papers = list(result.table.paper_columns)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    paper_titles = [f"paper_{column}" for column in papers]
    names = [*result.columns, *paper_titles]
    writer.writerow(["table", "scale", "row", "maps", "seed", *names, "run"])
    for row in result.rows:
        quoted = [row.row.paper.get(column) for column in papers]
        start = [result.table.name, result.scale, row.row.name, row.row.maps]
        for seed in result.seeds:
            found = row.runs.get(seed)
            values = [one_seed(row, seed, column) for column in result.columns]
            run = found[0].folder.name if found else ""
            cells = [*start, seed, *map(number, [*values, *quoted]), run]
            writer.writerow(map(guarded, cells))
    return out.getvalue()


def one_seed(row: RowResult, seed: int, column: str) -> float | None:
    """A measured figure in percent of one seed."""
    if seed not in row.runs:
        return None
    value = row.runs[seed][1].metrics.get(f"{row.row.maps}/{column}")
    return None if value is None else 100 * value


def number(value: float | None) -> str:
    """A number for a program."""
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def unique(lines: Iterable[str]) -> list[str]:
    """Each line once, in order."""
    return list(dict.fromkeys(lines))
