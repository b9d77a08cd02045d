"""Measures the share of a training step that goes to accumulation and commits.

    python tools/bench_step.py

Trains EfficientNet-Lite0 (224 px, stride 16, batch 16, as configs/voc12/oaa_efficientnet_lite0.yaml
does) on random images in blocks of steps: one block with accumulation and a commit in the
background, one without, in turn, many times over. Loading images is left out, which makes the
step shorter and the share larger.
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from bench_common import Figure, machine, show, spread, write
from dist_oaa.attention.accumulator import AttentionAccumulator
from dist_oaa.attention.batch import Observation, Rules
from dist_oaa.config.model import ModelConfig, OptimConfig
from dist_oaa.models.classifier import build_classifier
from dist_oaa.models.losses import multilabel_loss_B
from dist_oaa.runtime.distributed import World
from dist_oaa.stages.training import make_trainable
from dist_oaa.store.facade import StoreWriter, prepare_store
from dist_oaa.store.manifest import Manifest

CLASSES, IMAGES, BATCH, SIZE = 20, 1464, 16, 224  # VOC 2012 train has 1,464 images


class Training:
    """Steps of a classifier on random images, with or without accumulation."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        model, _ = build_classifier(ModelConfig(weights="none"), CLASSES, seed=0)
        world = World(0, 1, 0, torch.device("cpu"))
        self.trainable = make_trainable(model, OptimConfig(lr=1e-6), world)
        targets = [tuple(sorted(rng.choice(CLASSES, 1 + i % 2, False).tolist()))
                   for i in range(IMAGES)]  # fmt: skip
        manifest = prepare_store(folder, make_manifest(targets), resume=False)
        self.accumulator = AttentionAccumulator(StoreWriter(folder, manifest, 0, 1, 0))
        self.writer = ThreadPoolExecutor(1)
        self.labels_NC = torch.zeros(IMAGES, CLASSES, dtype=torch.uint8)
        for image, classes in enumerate(targets):
            self.labels_NC[image, list(classes)] = 1
        generator = torch.Generator().manual_seed(0)
        self.images_B3HW = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator).contiguous(
            memory_format=torch.channels_last
        )
        self.geometry_B23 = torch.eye(2, 3).expand(BATCH, 2, 3).contiguous()
        self.order = torch.randperm(IMAGES, generator=generator)
        self.step_number = self.generation = 0
        self.in_calls_s = self.in_thread_s = 0.0

    def step(self, accumulate: bool) -> None:
        """One optimiser step."""
        first = self.step_number * BATCH % (IMAGES - BATCH)
        index_B = self.order[first : first + BATCH]
        labels_BC = self.labels_NC[index_B]
        self.step_number += 1
        logits_BC, cam_BCHW = self.trainable.wrapped(self.images_B3HW, None)
        loss = multilabel_loss_B(logits_BC, labels_BC).mean()
        if accumulate:
            start = time.perf_counter()
            cells_B2 = torch.tensor([cam_BCHW.shape[2:]]).expand(BATCH, 2).contiguous()
            pairs = self.accumulator.pairs(index_B, labels_BC)
            seen = Observation(cam_BCHW.detach(), logits_BC.detach(), labels_BC,
                               self.geometry_B23, cells_B2, pairs)  # fmt: skip
            # Without a gate, so that every pair is written: the most there can be to do.
            self.accumulator.update(seen, Rules(gate="none"))
            self.in_calls_s += time.perf_counter() - start
        loss.backward()
        self.trainable.optimizer.step()
        self.trainable.optimizer.zero_grad(set_to_none=True)

    def block(self, steps: int, accumulate: bool) -> float:
        """Seconds of some steps; with accumulation, a commit runs beside them."""
        start, commit = time.perf_counter(), None
        for number in range(steps):
            self.step(accumulate)
            if accumulate and number == 0:
                before = time.perf_counter()
                self.generation += 1
                commit = self.writer.submit(self._write, self.generation,
                                            self.accumulator.snapshot())  # fmt: skip
                self.in_calls_s += time.perf_counter() - before
        if commit is not None:
            commit.result()
        return time.perf_counter() - start

    def _write(self, generation: int, rows) -> None:
        before = time.thread_time()
        self.accumulator.store.commit(generation, rows)
        self.in_thread_s += time.thread_time() - before

    def close(self) -> None:
        """Ends the thread and closes the store."""
        self.writer.shutdown()
        self.accumulator.close()


def make_manifest(targets: list[tuple[int, ...]]) -> Manifest:
    """A store for images with these target classes."""
    return Manifest(
        map_size=41,
        dtype="uint8",
        fusion="max",
        shards=24,
        class_names=tuple(f"class{c:02d}" for c in range(CLASSES)),
        fingerprint="benchmark",
        image_ids=tuple(f"{i:06d}" for i in range(len(targets))),
        classes=tuple(targets),
    )


def measure(rounds: int, steps: int) -> tuple[list[Figure], list[str]]:
    """The figures, and notes with the times behind them."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        training = Training(Path(folder) / "store")
        try:
            training.block(2, True)
            training.block(2, False)
            training.in_calls_s = training.in_thread_s = 0.0
            seconds = np.zeros((rounds, 2))
            for number in range(rounds):
                # The order changes, so that a drift of the machine's speed favours neither.
                for which in (0, 1) if number % 2 else (1, 0):
                    seconds[number, which] = training.block(steps, which == 1)
        finally:
            training.close()
    share = 100 * (seconds[:, 1] / seconds[:, 0] - 1)
    low, high = np.percentile(share, [20, 80])
    alone = seconds[:, 1].sum()
    calls = 100 * training.in_calls_s / alone
    thread = 100 * training.in_thread_s / alone
    notes = [
        f"a step without: {spread(seconds[:, 0] / steps, 1, 's')}; with: "
        f"{spread(seconds[:, 1] / steps, 1, 's')}",
        f"share by paired blocks of {steps} steps, {rounds} pairs: median "
        f"{np.median(share):.2f} % (p20 {low:.2f}, p80 {high:.2f})",
    ]
    return [
        Figure("share of a training step, with against without", float(np.median(share)), "%",
               "<= 1"),
        Figure("share of a step inside update and snapshot", calls, "%", "<= 1"),
        Figure("processor time of the commits' thread", thread, "%"),
    ], notes  # fmt: skip


def main() -> int:
    """Measures, prints the table, and writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="pairs of blocks, a count")
    parser.add_argument("--steps", type=int, default=6, help="steps of a block, a count")
    parser.add_argument("--threads", type=int, default=2, help="threads of the training")
    parser.add_argument("--json", default="", help="file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures, notes = measure(args.rounds, args.steps)
    show(figures, "A training step", [machine(), *notes])
    write(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
