"""What a pipeline came to: one line a stage."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from dist_oaa.stages.launching.planned import PlannedRun
from dist_oaa.stages.launching.progress import Progress, clock
from dist_oaa.stages.launching.records import finished_record

FIGURES = {
    "classify": {
        "cam/recall": "CAM recall",
        "cumulative/recall": "cumulative recall",
        "cumulative/noise": "noise",
        "cumulative/seed_miou": "seed mIoU",
    },
    "attend": {"attention/recall": "recall", "attention/seed_miou": "seed mIoU"},
    "integral": {
        "integral/recall": "recall",
        "integral/noise": "noise",
        "integral/seed_miou": "seed mIoU",
    },
    "affinity": {"train/epoch_loss": "loss"},
    "pseudo-label": {"labels/miou": "label mIoU", "labels/ignored": "ignored"},
    "segment": {"segmentation/miou": "mIoU while training"},
    "localize": {
        "localization/top1": "top-1 localisation",
        "localization/gt_known": "GT-known",
        "localization/max_box_acc_v2": "MaxBoxAccV2",
    },
    "evaluate": {"segmentation/miou": "mIoU", "segmentation/boundary_f": "boundary F"},
}
"""By stage: the figures that sum it up, with their names for people. All are shares but losses."""


def figures_of(stage: str, metrics: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """(name, value as people read it) of the figures that sum a stage up, as far as there are."""
    found = []
    for metric, name in FIGURES.get(stage, {}).items():
        value = metrics.get(metric)
        if value is not None and value == value:
            found.append((name, f"{value:.3g}" if "loss" in metric else f"{100 * value:.1f} %"))
    return found


def print_results(progress: Progress, runs: Sequence[PlannedRun]) -> None:
    """Prints the table of the finished stages."""
    table = Table(title="pipeline", title_justify="left")
    table.add_column("stage", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("result")
    for run in runs:
        record = finished_record(run)
        if record is not None:
            figures = figures_of(run.stage, record.metrics)
            result = ", ".join(f"{name} {value}" for name, value in figures) or "-"
            table.add_row(run.name, clock(record.seconds), result)
    progress.console.print(table)
