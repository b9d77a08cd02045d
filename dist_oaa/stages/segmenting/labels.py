"""Which images `oaa segment` trains on, and whose labels each of them gets.

The label images come from a run of `oaa pseudo-label` (RUN/labels/ID.png, with labels.json, which
says that they are complete and what they were made from) or from any folder of PNGs. A share of
the images may get its true mask instead.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_oaa.config.errors import UserError
from dist_oaa.config.segment import SegmentConfig
from dist_oaa.data.label_images import LabelledSample
from dist_oaa.data.paths import inside
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.runtime.rundir import CLASSES
from dist_oaa.stages.run_settings import difference, one_line, read_classes

FOLDER = "labels"
SUMMARY = "labels.json"


@dataclass(frozen=True)
class LabelFolder:
    """Where label images lie, and what is known of them."""

    folder: Path
    skipped: frozenset[str]
    """Images that have none, as labels.json says: they could not be read."""
    supervision: tuple[str, ...]
    """What they were made from, as labels.json says it, line by line."""


@dataclass(frozen=True)
class Training:
    """The images to train on, in the order of their names."""

    samples: tuple[LabelledSample, ...]
    skipped: int
    """Images that labels.json says have no label."""
    of: int
    """Images of the data set before a share of them was chosen."""

    @property
    def true_masks(self) -> int:
        """Images that are trained on with their true mask."""
        return sum(sample.is_truth for sample in self.samples)


def open_labels(labels: str, class_names: tuple[str, ...]) -> LabelFolder:
    """The folder that the setting `labels` means.

    Raises:
        UserError: there is none, it is not complete, or it is of other classes.
    """
    given = Path(labels)
    if not labels or not given.is_dir():
        problem = f"labels: {given} is no folder" if labels else "labels is empty"
        raise UserError(f"{problem}, expected a run of oaa pseudo-label or a folder of label PNGs")
    folder = given / FOLDER if (given / FOLDER).is_dir() else given
    homes = [folder, folder.parent] if folder.name == FOLDER else [folder]
    run_dir = next((home for home in homes if (home / SUMMARY).exists()), None)
    if run_dir is None and folder != given:
        raise UserError(
            f"{given} has no {SUMMARY}, so its labels are not complete: run oaa pseudo-label to "
            "its end first"
        )
    summary: dict[str, Any] = {}
    if run_dir is not None:
        summary = _read_summary(run_dir / SUMMARY)
        if (run_dir / CLASSES).exists():
            _check_classes(run_dir, class_names)
    skipped, lines = summary.get("skipped", []), summary.get("supervision", [])
    lines = [lines] if isinstance(lines, str) else lines
    return LabelFolder(folder, frozenset(map(str, skipped)), tuple(map(str, lines)))


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error
    if not isinstance(summary, dict):
        raise UserError(f"{path} holds no summary of label images, expected that of a finished run")
    return summary


def _check_classes(run_dir: Path, here: tuple[str, ...]) -> None:
    there = read_classes(run_dir)
    if there != here:
        raise UserError(
            f"the labels of {run_dir} have other classes than the data set: "
            f"{difference(there, here)}; expected labels of this data set"
        )


def choose_training(config: SegmentConfig, image_set: ImageSet) -> tuple[Training, LabelFolder]:
    """The images that `data.fraction` leaves, each with its label or its true mask.

    Args:
        image_set: in the order of names.

    Raises:
        UserError: an image lacks its label, too few have masks, or what `open_labels` raises.
    """
    if config.data.pixel_fraction == 1 and not config.labels:
        labels = LabelFolder(image_set.root, frozenset(), ())
    else:
        labels = open_labels(config.labels, image_set.class_names)
    usable = [s for s in image_set.samples if s.id not in labels.skipped]
    if not usable:
        raise UserError(f"{labels.folder} has a label for none of the {len(image_set)} images")
    chosen = smallest(usable, config.data.fraction, config.seed, "fraction")
    true = _with_true_masks(config, chosen)
    samples = tuple(_labelled(s, s.id in true, labels, image_set, config) for s in chosen)
    return Training(samples, len(image_set) - len(usable), len(image_set)), labels


def smallest(samples: Sequence[Sample], share: float, seed: int, purpose: str) -> list[Sample]:
    """That share of the samples, at least one, in their order: those of the smallest hashes.

    A larger share of the same samples holds a smaller one.
    """

    def digest(sample: Sample) -> bytes:
        key = f"{purpose}\x1f{seed}\x1f{sample.id}".encode()
        return hashlib.blake2b(key, digest_size=8).digest()

    count = max(1, round(share * len(samples)))
    kept = {sample.id for sample in sorted(samples, key=digest)[:count]}
    return [sample for sample in samples if sample.id in kept]


def _with_true_masks(config: SegmentConfig, chosen: Sequence[Sample]) -> set[str]:
    """Ids of the images whose true mask is trained on."""
    share = config.data.pixel_fraction
    wanted = round(share * len(chosen))
    if not wanted:
        return set()
    having = [sample for sample in chosen if sample.mask is not None]
    if len(having) < wanted:
        raise UserError(
            f"data.pixel_fraction is {share}, {wanted} of {len(chosen)} images, but only "
            f"{len(having)} of them have masks; lower it"
        )
    return {s.id for s in smallest(having, wanted / len(having), config.seed, "pixel_fraction")}


def _labelled(
    sample: Sample, is_truth: bool, labels: LabelFolder, image_set: ImageSet, config: SegmentConfig
) -> LabelledSample:
    if is_truth:
        return LabelledSample(sample.id, sample.path, sample.mask, is_truth=True)
    path = inside(labels.folder, f"{sample.id}.png")
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: the image {sample.id!r} has no label, expected one for each "
            f"of the {len(image_set)} images of data.root {config.data.root} (data.split and "
            "data.limit of the run that made the labels?)"
        )
    return LabelledSample(sample.id, sample.path, path)
