"""`oaa data check`: read every image, mask and label once and report everything that is wrong.

Legend: HW height and width of an image in pixels.
"""

import os
from collections import Counter
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from rich.columns import Columns
from rich.console import Console
from rich.progress import track
from rich.text import Text

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.boxes import ObjectBoxes, has_boxes, open_boxes
from dist_oaa.data.images import BadImageError, read_image, read_mask
from dist_oaa.data.problems import KINDS, CollectedProblems, Problem
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.data.sources import open_image_set

IGNORE = 255
"""Mask index of pixels that no measure counts."""


@dataclass(frozen=True)
class CheckReport:
    """What a data set holds and what is wrong with it."""

    root: str
    images: int
    """Images of the list whose file exists, readable or not, a count."""
    class_counts: dict[str, int]
    """Class name -> images that have it, in the order of the classes."""
    label_source: str
    heights: tuple[int, ...]
    """Heights of the readable images, in pixels; `widths` is in the same order."""
    widths: tuple[int, ...]
    masks: int
    """Images that have a mask file, a count."""
    boxes: str
    """How many boxes there are, and where they were read; empty where none are named."""
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def check(config: DataConfig, console: Console | None = None) -> CheckReport:
    """Read every image, mask and label of the data set that the settings describe.

    A mistake in the settings or the layout (no such root, no such list) is a problem of the report
    too. With a console, a progress bar shows on it.
    """
    problems = CollectedProblems()
    try:
        image_set = open_image_set(config, problems)
    except UserError as error:
        problems.add("layout", str(error))
        return CheckReport(config.root, 0, {}, "none", (), (), 0, "", tuple(problems.found))
    boxes = _boxes(config, image_set, problems)
    sizes_HW = []
    # Threads are enough: PIL's decoders release the interpreter lock.
    with ThreadPool(os.cpu_count()) as pool:
        results = pool.imap(
            lambda sample: _examine(sample, len(image_set.class_names), config.pixel_limit),
            image_set.samples,
            chunksize=8,
        )
        for size_HW, found in track(
            results,
            "Reading",
            total=len(image_set),
            console=console,
            transient=True,
            disable=console is None,
        ):
            problems.found.extend(found)
            if size_HW is not None:
                sizes_HW.append(size_HW)
    return _report(config, image_set, sizes_HW, boxes, problems)


def _boxes(
    config: DataConfig, image_set: ImageSet, problems: CollectedProblems
) -> ObjectBoxes | None:
    """The boxes, where the settings or the layout name any."""
    try:
        return open_boxes(config, image_set, problems) if has_boxes(config) else None
    except UserError as error:
        problems.add("layout", str(error))
        return None


def _said_of(boxes: ObjectBoxes | None) -> str:
    if boxes is None:
        return ""
    count = sum(map(len, boxes.by_image.values()))
    clipped = f", {boxes.clipped} clipped by up to a pixel" if boxes.clipped else ""
    return f"{count} on {len(boxes.by_image)} images, from {boxes.source}{clipped}"


def _examine(
    sample: Sample, classes: int, pixel_limit: float
) -> tuple[tuple[int, int] | None, list[Problem]]:
    """Return the size of an image, None where it is unreadable, and what is wrong with it."""
    size_HW, found = None, []
    try:
        size_HW = read_image(sample.path, pixel_limit).shape[:2]
    except BadImageError as error:
        found.append(Problem("corrupt", str(error)))
    if sample.mask is not None:
        try:
            found += _mask_problems(sample.mask, read_mask(sample.mask), size_HW, classes)
        except BadImageError as error:
            found.append(Problem("corrupt", str(error)))
    return size_HW, found


def _mask_problems(
    path: Path, mask_HW: np.ndarray, size_HW: tuple[int, int] | None, classes: int
) -> list[Problem]:
    found = []
    if size_HW is not None and mask_HW.shape != size_HW:
        message = (
            f"{path} has {mask_HW.shape[1]} x {mask_HW.shape[0]} pixels, its image "
            f"{size_HW[1]} x {size_HW[0]}"
        )
        found.append(Problem("mask_size", message))
    counts = np.bincount(mask_HW.ravel(), minlength=256)
    unknown = [int(i) for i in np.flatnonzero(counts) if classes < i != IGNORE]
    if unknown:
        message = (
            f"{path} has the unknown index {', '.join(map(str, unknown))}, expected 0 (background) "
            f"to {classes} or {IGNORE} (ignore)"
        )
        found.append(Problem("mask_index", message))
    return found


def _report(
    config: DataConfig,
    image_set: ImageSet,
    sizes_HW: list[tuple[int, int]],
    boxes: ObjectBoxes | None,
    problems: CollectedProblems,
) -> CheckReport:
    counts = Counter(c for sample in image_set.samples for c in sample.classes)
    return CheckReport(
        root=config.root,
        images=len(image_set),
        class_counts={name: counts[i] for i, name in enumerate(image_set.class_names)},
        label_source=image_set.label_source,
        heights=tuple(height for height, _ in sizes_HW),
        widths=tuple(width for _, width in sizes_HW),
        masks=sum(sample.mask is not None for sample in image_set.samples),
        boxes=_said_of(boxes),
        problems=tuple(problems.found),
    )


def print_report(report: CheckReport, console: Console) -> None:
    """Print the summary, then every problem under the heading of its kind."""

    def line(text: str, style: str = "") -> None:
        # As Text: a file name may hold square brackets, which are markup in a plain string.
        console.print(Text(text, style=style, overflow="fold"))

    line(f"Data set     {report.root}")
    line(f"Images       {report.images}, {report.masks} with a mask")
    line(f"Labels from  {report.label_source}")
    if report.boxes:
        line(f"Boxes        {report.boxes}")
    for name, lengths in (("Height", report.heights), ("Width", report.widths)):
        if lengths:
            line(
                f"{name:<13}{min(lengths)} / {np.median(lengths):g} / {max(lengths)} pixels "
                "(smallest / median / largest)"
            )
    if report.class_counts:
        line(f"Classes      {len(report.class_counts)}, with the images that have each:")
        cells = [Text(f"{name} {n}") for name, n in report.class_counts.items()]
        console.print(Columns(cells, padding=(0, 3), equal=True, column_first=True))
    for kind, heading in KINDS.items():
        messages = [problem.message for problem in report.problems if problem.kind == kind]
        if messages:
            line(f"\n{heading}: {len(messages)}", "bold red")
        for message in messages:
            line(f"- {message}")
    if report.ok:
        line("\nNo problems found.", "green")
    else:
        count = len(report.problems)
        line(f"\n{count} problem{'' if count == 1 else 's'} found.", "bold red")


def check_command(data: DataConfig) -> int:
    """Check a data set, print the report and return the exit code: 0, or 2 with problems."""
    console = Console()
    report = check(data, console)
    print_report(report, console)
    return 0 if report.ok else UserError.exit_code
