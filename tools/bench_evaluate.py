"""Measures how label images are counted against torchmetrics' way, on one thread.

    python tools/bench_evaluate.py [--images 12] [--height 375] [--width 500]

Both take the same pairs of label images in turn and end with the IoU of every class, which must
agree. torchmetrics' way is `MulticlassJaccardIndex.update` on the images as tensors, as its
documentation shows it, with its check of the values (`validate_args`, on by default: ours checks
them, too) and without. The boundary F-score, which torchmetrics does not have, is timed beside it.
"""

import argparse
import sys
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from bench_common import Figure, in_turn, machine, show, spread, write
from dist_oaa.evaluation.boundary import BoundaryScore
from dist_oaa.evaluation.segmentation import Confusion

CLASSES = 20
IGNORED = 255

Pairs = list[tuple[np.ndarray, np.ndarray]]


def label_pairs(images: int, height: int, width: int) -> Pairs:
    """Predictions and truths with round objects, the prediction's a few pixels off."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(images):
        truth_HW = np.zeros((height, width), np.uint8)
        prediction_HW = truth_HW.copy()
        for label in rng.integers(1, CLASSES + 1, 3).tolist():
            x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
            radius = int(rng.integers(height // 12, height // 4))
            cv2.circle(truth_HW, (x, y), radius, label, -1)
            cv2.circle(truth_HW, (x, y), radius, IGNORED, 5)
            cv2.circle(prediction_HW, (x + 4, y), radius, label, -1)
        pairs.append((prediction_HW, truth_HW))
    return pairs


def by_confusion(pairs: Pairs) -> np.ndarray:
    """IoU of each palette value by our counts; 0 for the absent."""
    confusion = Confusion(CLASSES)
    for prediction_HW, truth_HW in pairs:
        confusion.update(prediction_HW, truth_HW)
    per_class = confusion.result().per_class
    return np.array([per_class.get(k, 0.0) for k in range(CLASSES + 1)])


def by_torchmetrics(pairs: Pairs, validate: bool) -> np.ndarray:
    """The same by torchmetrics."""
    jaccard = MulticlassJaccardIndex(
        CLASSES + 1, average="none", ignore_index=IGNORED, validate_args=validate
    )
    for prediction_HW, truth_HW in pairs:
        jaccard.update(torch.from_numpy(prediction_HW), torch.from_numpy(truth_HW))
    return jaccard.compute().numpy()


def boundaries(pairs: Pairs) -> float:
    """Mean boundary F-score."""
    score = BoundaryScore(CLASSES)
    for prediction_HW, truth_HW in pairs:
        score.update(prediction_HW, truth_HW)
    return score.result().f


def measure(
    images: int = 12, height: int = 375, width: int = 500, rounds: int = 7
) -> tuple[list[Figure], list[str]]:
    """The figures, and notes with the times behind them."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pairs = label_pairs(images, height, width)
    np.testing.assert_allclose(by_confusion(pairs), by_torchmetrics(pairs, True), atol=1e-6)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: by_confusion(pairs),
        "torchmetrics": lambda: by_torchmetrics(pairs, True),
        "torchmetrics, values not checked": lambda: by_torchmetrics(pairs, False),
        "boundary F-score": lambda: boundaries(pairs),
    }
    seconds = in_turn(ways, rounds)
    ours = seconds["ours"]

    def times(other: str) -> float:
        return float(np.median(seconds[other] / ours))

    figures = [
        Figure("mIoU counting against torchmetrics", times("torchmetrics"), "x", ">= 2"),
        Figure(
            "mIoU counting against torchmetrics, values not checked",
            times("torchmetrics, values not checked"),
            "x",
        ),
        Figure("mIoU counting, images/s", images / np.median(ours), "images/s"),
        Figure(
            "boundary F-score, images/s",
            images / np.median(seconds["boundary F-score"]),
            "images/s",
        ),
    ]
    notes = [f"{width} x {height} pixels, {CLASSES} classes, one thread; IoUs agree"]
    notes += [f"{name}: {spread(s / images, 1e3, 'ms an image')}" for name, s in seconds.items()]
    return figures, notes


def main() -> int:
    """Measures, prints the table, and writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12, help="pairs of label images")
    parser.add_argument("--height", type=int, default=375, help="pixels")
    parser.add_argument("--width", type=int, default=500, help="pixels")
    parser.add_argument("--json", default="", help="file for the figures")
    args = parser.parse_args()
    figures, notes = measure(args.images, args.height, args.width)
    show(figures, "Evaluation", [machine(), *notes])
    write(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
