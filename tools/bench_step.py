"""Measures the share of a training step that goes to accumulation and commits.

    python tools/bench_step.py

Trains EfficientNet-Lite0 (224 px, stride 16, batch 16, as configs/voc12/oaa_efficientnet_lite0.yaml
does) on random images, one step with accumulation and a commit in the background, one without, in
turn, many times over. Loading images is left out, which makes the step shorter and the share
larger. The share is far below the few per cent by which one step differs from the next; hence a
step accumulates as many batches as fifty steps would, and commits them, and the difference is
divided by fifty.
"""

import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from bench_common import Figure, run_step_benchmark, share_of_a_step
from dist_oaa.attention.accumulator import AttentionAccumulator
from dist_oaa.attention.batch import Observation, Rules
from dist_oaa.config.model import ModelConfig, OptimConfig
from dist_oaa.models.classifier import build_classifier
from dist_oaa.models.losses import multilabel_loss_B
from dist_oaa.runtime.distributed import World
from dist_oaa.stages.training import make_trainable
from dist_oaa.store.codec import ChangedRows
from dist_oaa.store.manifest import Manifest
from dist_oaa.store.writer import StoreWriter, prepare_store

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
        self.next_image = self.generation = 0
        self.in_calls_s = self.in_thread_s = 0.0

    def step(self, times: int) -> float:
        """Seconds of one optimiser step that accumulates so many batches and commits them once.

        The commit runs beside the rest of the step, which waits for it at its end.
        """
        start, commit = time.perf_counter(), None
        labels_BC = self.labels_NC[self.order[:BATCH]]
        predicted = self.trainable.wrapped(self.images_B3HW, None)
        logits_BC, cam_BCHW = predicted.logits_BC, predicted.cam_BCHW
        loss = multilabel_loss_B(logits_BC, labels_BC).mean()
        if times:
            commit = self.accumulate(logits_BC.detach(), cam_BCHW.detach(), times)
        loss.backward()
        self.trainable.optimizer.step()
        self.trainable.optimizer.zero_grad(set_to_none=True)
        if commit is not None:
            commit.result()
        return time.perf_counter() - start

    def accumulate(self, logits_BC: torch.Tensor, cam_BCHW: torch.Tensor, times: int) -> Future:
        """Accumulates the maps for `times` batches of images, then begins a commit."""
        start = time.perf_counter()
        cells_B2 = torch.tensor([cam_BCHW.shape[2:]]).expand(BATCH, 2).contiguous()
        for _ in range(times):
            index_B = self.order[self.next_image : self.next_image + BATCH]
            self.next_image = (self.next_image + BATCH) % (IMAGES - BATCH)
            labels_BC = self.labels_NC[index_B]
            pairs = self.accumulator.pairs(index_B, labels_BC)
            seen = Observation(cam_BCHW, logits_BC, labels_BC, self.geometry_B23, cells_B2, pairs)
            # Without a gate, so that every pair is written: the most there can be to do.
            self.accumulator.update(seen, Rules(gate="none"))
        self.generation += 1
        commit = self.writer.submit(self._write, self.generation, self.accumulator.snapshot())
        self.in_calls_s += time.perf_counter() - start
        return commit

    def _write(self, generation: int, rows: ChangedRows) -> None:
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


def measure(rounds: int, times: int) -> tuple[list[Figure], list[str]]:
    """The figures, and notes with the times behind them."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        training = Training(Path(folder) / "store")
        try:
            for warm in (times, 0, times):
                training.step(warm)
            training.in_calls_s = training.in_thread_s = 0.0
            seconds = np.zeros((rounds, 2))
            for number in range(rounds):
                # The order changes, so that a drift of the machine's speed favours neither.
                for which in (0, 1) if number % 2 else (1, 0):
                    seconds[number, which] = training.step(times * which)
        finally:
            training.close()
    share, notes = share_of_a_step(seconds[:, 0], seconds[:, 1], times)
    per_step = 100 / times / rounds / float(np.median(seconds[:, 0]))
    return [
        Figure("share of a training step, with against without", share, "%", "<= 1"),
        Figure("of it in update and snapshot", training.in_calls_s * per_step, "%"),
        Figure("processor time of the commits' thread", training.in_thread_s * per_step, "%"),
    ], notes


def main() -> int:
    """Measures, prints the table, and writes it as JSON where asked."""
    return run_step_benchmark(__doc__.splitlines()[0], "A training step", measure)


if __name__ == "__main__":
    sys.exit(main())
