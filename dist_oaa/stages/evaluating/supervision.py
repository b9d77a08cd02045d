"""The audit lines of an evaluation: all that its figures owe to anything but the images."""

import json
from pathlib import Path

from dist_oaa.config.evaluate import EvaluationConfig
from dist_oaa.stages.trained_segmenter import TrainedSegmenter

SUMMARIES = ("labels.json", "evaluation.json")
"""What the commands that make label images leave beside them, with `supervision` in it."""
MASKS = "masks were read"
"""How the line begins that says so."""


def network_lines(config: EvaluationConfig, trained: TrainedSegmenter) -> list[str]:
    """Of a network: what it was trained on, what its trunk began as, and how it was used."""
    crf = "dense, not tuned here" if config.crf else "none"
    network = trained.config
    return [
        f"supervision: network of {config.checkpoint} at step {trained.step}; CRF {crf}",
        f"{network.architecture} on {network.backbone}, trunk weights {network.weights}",
        f"views: {config.views.phrase()}",
        *(nested(trained.supervision) or ["what it was trained on is not recorded there"]),
    ]


def folder_lines(folder: Path) -> list[str]:
    """Of label images in a folder: what is known of their making."""
    unknown = "how they were made is not recorded there"
    return [f"supervision: label images of {folder}", *(recorded(folder) or [unknown])]


def recorded(folder: Path) -> list[str]:
    """What a run says of the supervision behind its label images; nothing where it says nothing.

    Args:
        folder: of the run or of its label images.
    """
    for place in (folder, folder.parent):
        for name in SUMMARIES:
            try:
                lines = json.loads((place / name).read_text(encoding="utf-8"))["supervision"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # nothing depends on it
            if isinstance(lines, list):
                return nested(lines)
    return []


def nested(lines: "list[str] | tuple[str, ...]") -> list[str]:
    """Another command's audit lines within ours.

    That masks were read for its figures says nothing about these.
    """
    plain = (str(line).strip().removeprefix("supervision: ") for line in lines)
    return [line for line in plain if not line.startswith(MASKS)]
