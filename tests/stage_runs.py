"""The four trainings on the same scenes, each with what it learns from."""

from pathlib import Path

from affinity_runs import affinity_settings
from dist_oaa.cli import run as oaa
from runs import integral_settings, labels_from_masks, segment_settings, settings

STAGES = ("classify", "integral", "affinity", "segment")
ONCE = {"optim.epochs": 1}


def prepare(data: Path, folder: Path) -> Path:
    """Makes maps and labels to train on; returns the folder."""
    oaa(settings(data, folder / "classified", **ONCE))
    labels_from_masks(data, folder / "labels")
    return folder


def training(stage: str, data: Path, prepared: Path, run_dir: Path) -> list[str]:
    """The arguments of one epoch of a stage."""
    if stage == "classify":
        return settings(data, run_dir, **ONCE)
    if stage == "integral":
        return integral_settings(data, prepared / "classified", run_dir, **ONCE)
    if stage == "segment":
        return segment_settings(data, prepared / "labels", run_dir, **ONCE)
    return affinity_settings(data, data / "SegmentationClass", run_dir, **ONCE)
