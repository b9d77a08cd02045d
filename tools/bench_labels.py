"""Measures pseudo labels and dense CRFs per second, on one process and on two.

    python tools/bench_labels.py [--images 40] [--rounds 5]

The images are drawn: 375 x 500 pixels, three classes, a map of 41 x 41 cells each, and saliency as
a file. A pseudo label is what a worker of `oaa pseudo-label` makes of it: read image and saliency,
the recipe, write the PNG; with "CRF" the dense CRF in between. Both pools take turns on the same
images after a first round that is not counted, so that what is measured is the work, not the start.
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from bench_common import Figure, in_turn, machine, show, spread, write
from dist_oaa.config.labels import LabelsConfig
from dist_oaa.data.sample import Sample
from dist_oaa.stages.labelling.labeller import Labeller, LabelTask, label_one
from dist_oaa.stages.labelling.pool import WorkerPool

HEIGHT, WIDTH, CELLS = 375, 500, 41
CLASSES = (2, 7, 14)
GOAL = ">= 1.7"


def draw(folder: Path, count: int) -> list[LabelTask]:
    """Images with three objects each, their saliency and their maps, the same every time."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    tasks = []
    for number in range(count):
        image_HW3 = np.empty((HEIGHT, WIDTH, 3), np.float32)
        image_HW3[:] = rng.uniform(40, 120, 3)
        image_HW3 += 15 * np.sin(x / 9)[..., None]  # a texture, so that files are not too small
        objects_KHW = []
        for _ in CLASSES:
            middle, radii = rng.uniform(0.2, 0.8, 2), rng.uniform(0.1, 0.25, 2)
            distance_HW = ((y / HEIGHT - middle[0]) / radii[0]) ** 2
            distance_HW += ((x / WIDTH - middle[1]) / radii[1]) ** 2
            image_HW3[distance_HW < 1] = rng.uniform(80, 255, 3)
            objects_KHW.append(np.exp(-distance_HW))
        image_HW3 += rng.normal(0, 6, image_HW3.shape)
        path = folder / f"{number}.jpg"
        Image.fromarray(image_HW3.clip(0, 255).astype(np.uint8)).save(path, quality=92)
        saliency_HW = (255 * np.max(objects_KHW, axis=0)).astype(np.uint8)
        Image.fromarray(saliency_HW).save(folder / f"{number}.png")
        maps = [
            cv2.resize(o_HW, (CELLS, CELLS), interpolation=cv2.INTER_AREA) for o_HW in objects_KHW
        ]
        sample = Sample(str(number), path, CLASSES, None)
        tasks.append(LabelTask(sample, CLASSES, np.stack(maps).astype(np.float32)))
    return tasks


def rates(refine: list[str], tasks: list[LabelTask], rounds: int, folder: Path) -> dict:
    """Seconds of each round on one process and on two, by their number."""
    config = LabelsConfig(saliency="dir", saliency_dir=str(folder), refine=refine)
    made = (Labeller, config, folder, 20, 1.0, folder / "labels")
    with contextlib.ExitStack() as stack:
        pools = {n: stack.enter_context(WorkerPool(n, *made)) for n in (1, 2)}
        functions = {
            str(n): lambda pool=pool: sum(1 for _ in pool.map(label_one, tasks))
            for n, pool in pools.items()
        }
        return in_turn(functions, rounds)


def figures_of(
    name: str, refine: list[str], tasks: list[LabelTask], rounds: int, folder: Path
) -> tuple[list[Figure], str]:
    """Rates on one and two processes, and how much faster two are."""
    seconds = rates(refine, tasks, rounds, folder)
    figures = [
        Figure(f"{name}, {n} process{'es' * (n != '1')}", len(tasks) / np.median(s), "images/s")
        for n, s in seconds.items()
    ]
    # Round by round, since both met the same machine then.
    gain = float(np.median(seconds["1"] / seconds["2"]))
    figures.append(Figure(f"{name}, two processes against one", gain, "x", GOAL))
    times = ", ".join(
        f"{n} process{'es' * (n != '1')} {spread(s / len(tasks), 1e3, 'ms')}"
        for n, s in seconds.items()
    )
    return figures, f"{name}, an image: {times}"


def measure(images: int = 40, rounds: int = 5) -> tuple[list[Figure], list[str]]:
    """The figures, and notes with the times behind them.

    Args:
        images: of each round; a quarter of them with the CRF, which takes far longer.
    """
    figures, notes = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = draw(folder, images)
        for title, refine, count in (
            ("pseudo labels", [], images),
            ("dense CRF", ["crf"], max(4, images // 4)),
        ):
            found, note = figures_of(title, refine, tasks[:count], rounds, folder)
            figures += found
            notes.append(note)
    return figures, notes


def main() -> int:
    """Measures, prints the table, and writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40, help="images of each round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that are counted")
    parser.add_argument("--json", default="", help="file for the figures")
    args = parser.parse_args()
    figures, notes = measure(args.images, args.rounds)
    size = f"{HEIGHT} x {WIDTH} pixels, {len(CLASSES)} classes; one thread a process"
    show(figures, "Labels", [machine(), size, *notes])
    write(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
