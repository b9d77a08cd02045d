"""All that the report page says, gathered from the run directories; nothing of how it looks."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.sources import open_image_set
from dist_oaa.stages.launching.progress import clock
from dist_oaa.stages.page.charts import charts
from dist_oaa.stages.page.pictures import Card, Photo, cards, file_uri
from dist_oaa.stages.page.runs import ShownRun, of_stage, open_runs
from dist_oaa.stages.pipelining.results import figures_of
from dist_oaa.stages.run_settings import build_settings, require

PICTURES = {
    "predictions": "Predictions on the evaluated images",
    "confusion": "Confusion of the classes",
    "localization": "Boxes: the truth in red, the prediction in green",
}
"""Pictures of the stages that measure, with their titles."""
PER_CLASS = {
    "cam/recall": "CAM recall",
    "cumulative/recall": "cumulative recall",
    "cam/noise": "CAM noise",
    "cumulative/noise": "cumulative noise",
    "integral/recall": "integral recall",
    "integral/noise": "integral noise",
    "labels/iou": "label IoU",
    "segmentation/iou": "segmentation IoU",
}
"""Figures of a class, by the middle of `per_class/FIGURE/CLASS`, with their columns."""


@dataclass(frozen=True)
class StageRow:
    """One stage in the table."""

    name: str
    stage: str
    folder: str
    time: str
    figures: list[tuple[str, str]]
    images: str
    supervision: list[str]
    command: str
    config: str


@dataclass(frozen=True)
class Contents:
    """The page."""

    title: str
    headline: list[tuple[str, str]]
    """(figure, value) of the end result."""
    machine: str
    versions: str
    stages: list[StageRow]
    charts: list[tuple[str, str]]
    """(title, SVG)."""
    cards: list[Card]
    pictures: list[tuple[str, str]]
    """(title, data URI)."""
    class_columns: list[str]
    class_rows: list[tuple[str, list[str]]]
    """(class, cells in the order of the columns)."""
    notes: list[str]
    """What could not be shown, and why."""


def gather(folder: Path) -> Contents:
    """Reads everything that the page shows.

    Raises:
        UserError: when the folder is no run and no pipeline.
    """
    title, runs = open_runs(folder)
    notes: list[str] = []
    columns, rows = class_table(runs)
    records = [run.record for run in runs if run.record is not None]
    return Contents(
        title=title,
        headline=headline(runs),
        machine=records[-1].machine if records else "",
        versions=records[-1].versions if records else "",
        stages=[stage_row(run) for run in runs],
        charts=charts(runs),
        cards=cards(runs, photos(runs, notes)),
        pictures=[
            (title, uri)
            for run in of_stage(runs, "evaluate", "localize")
            for name, title in PICTURES.items()
            if (uri := file_uri(run.folder / "pictures" / f"{name}.png"))
        ],
        class_columns=columns,
        class_rows=rows,
        notes=notes,
    )


def headline(runs: Sequence[ShownRun]) -> list[tuple[str, str]]:
    """The few figures that the page begins with: what the last stages came to."""
    wanted = (
        ("evaluate", "segmentation/miou", "segmentation mIoU"),
        ("localize", "localization/gt_known", "GT-known localisation"),
        ("localize", "localization/top1", "top-1 localisation"),
        ("localize", "localization/max_box_acc_v2", "MaxBoxAccV2"),
        ("pseudo-label", "labels/miou", "pseudo-label mIoU"),
        ("integral", "integral/recall", "recall, integral model"),
        ("classify", "cumulative/recall", "recall, cumulative"),
        ("classify", "cam/recall", "recall, CAM"),
    )
    found = []
    for stage, metric, name in wanted:
        values = [run.last.get(metric) for run in of_stage(runs, stage)]
        if values and values[-1] is not None:
            found.append((name, f"{100 * values[-1]:.1f} %"))
    return found


def stage_row(run: ShownRun) -> StageRow:
    """What is said of one stage."""
    record = run.record
    return StageRow(
        name=run.name,
        stage=run.stage,
        folder=run.folder.name,
        time=clock(record.seconds) if record else "",
        figures=figures_of(run.stage, run.last),
        images=record.images if record else "",
        supervision=[line.removeprefix("supervision: ") for line in record.supervision]
        if record
        else [],
        command=shlex.join(shown_command(record.command)) if record else "",
        config=run.config_text,
    )


def shown_command(words: Sequence[str]) -> list[str]:
    """A command line as a person would type it."""
    words = list(words)
    if words[1:3] == ["-m", "torch.distributed.run"]:
        return ["torchrun", *words[3:]]
    return ["oaa", *words[3:]] if words[1:3] == ["-m", "dist_oaa"] else words


def class_table(runs: Sequence[ShownRun]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(columns, rows) of the figures per class, in percent; an empty cell was not measured."""
    columns: list[str] = []
    values: dict[str, dict[str, Any]] = {}
    for middle, title in PER_CLASS.items():
        prefix = f"per_class/{middle}/"
        measuring = [run for run in runs if any(key.startswith(prefix) for key in run.last)]
        for run in measuring:
            column = title if len(measuring) == 1 else f"{title}, {run.name}"
            columns.append(column)
            for key, value in run.last.items():
                if key.startswith(prefix):
                    values.setdefault(key.removeprefix(prefix), {})[column] = value
    order = [name for run in runs for name in ("background", *run.class_names)]
    names = sorted(values, key=lambda n: order.index(n) if n in order else len(order))
    return columns, [(name, [_percent(values[name].get(c)) for c in columns]) for name in names]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def photos(runs: Sequence[ShownRun], notes: list[str]) -> list[Photo]:
    """The images that the classifier was trained on; none, with a note, where they are gone."""
    for run in of_stage(runs, "classify"):
        try:
            require(run.config, ("data",), run.folder, "data set", "oaa classify")
            data = build_settings(DataConfig, run.config, "data", run.folder)
            samples = open_image_set(data).samples
        except UserError as error:
            notes.append(f"The gallery is left out: {error}.")
            return []
        return [Photo(s.id, s.path, s.mask, s.classes) for s in samples]
    return []
