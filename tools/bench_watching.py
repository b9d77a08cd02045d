"""Measures what a training step pays for being watched and guarded.

    python tools/bench_watching.py

Trains EfficientNet-Lite0 (224 px, stride 16, batch 16, as bench_step.py does) on random images, one
step with all of it, one without, in turn, many times over:
 - the notes that each step takes for heartbeat and watchdog, with their threads running;
 - the look for a CAM, loss or gradient that is not finite;
 - the checksums of the maps that a step changes, as a commit after every step would need them.
The share is far below the few per cent by which one step differs from the next; hence a step does
all this fifty times over, its threads wake fifty times as often, and the difference is divided by
fifty.
"""

import contextlib
import io
import math
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import torch

from bench_common import Figure, in_turn, run_step_benchmark, share_of_a_step
from dist_oaa.config.model import ModelConfig, OptimConfig
from dist_oaa.config.run import RuntimeConfig
from dist_oaa.models.classifier import build_classifier
from dist_oaa.models.losses import multilabel_loss_B
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.non_finite import finite_gradients
from dist_oaa.runtime.watching.heartbeat import BEAT_S, open_heartbeat
from dist_oaa.runtime.watching.pulse import LOADING, WAITING, Pulse
from dist_oaa.stages.training import make_trainable

CLASSES, BATCH, SIZE = 20, 16, 224
PAIRS = 24  # (image, class) pairs of a batch: VOC has 1.5 classes an image
MAP_BYTES = 41 * 41


class Training:
    """Steps of a classifier on random images, with or without what watches over them."""

    def __init__(self) -> None:
        model, _ = build_classifier(ModelConfig(weights="none"), CLASSES, seed=0)
        world = World(0, 1, 0, torch.device("cpu"))
        self.trainable = make_trainable(model, OptimConfig(lr=1e-6), world)
        generator = torch.Generator().manual_seed(0)
        self.images_B3HW = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator).contiguous(
            memory_format=torch.channels_last
        )
        self.labels_BC = torch.zeros(BATCH, CLASSES)
        self.labels_BC[torch.arange(BATCH), torch.arange(BATCH) % CLASSES] = 1
        rng = np.random.default_rng(0)
        # A pair's record: the cumulative map and the attention of the last epoch.
        self.records = [rng.bytes(2 * MAP_BYTES) for _ in range(PAIRS)]
        self.seconds = {"heartbeat": 0.0, "not finite": 0.0, "checksums": 0.0}
        self.found = 0

    def step(self, pulse: Pulse | None, times: int) -> None:
        """An optimiser step; with a pulse it is watched and guarded so many times over."""
        predicted = self.trainable.wrapped(self.images_B3HW, None)
        loss = multilabel_loss_B(predicted.logits_BC, self.labels_BC).mean()
        loss.backward()
        if pulse is not None:
            for number in range(times):
                self.watch(pulse, number)
                self.guard(predicted.cam_BCHW.detach(), loss.detach())
                self.sign()
        self.trainable.optimizer.step()
        self.trainable.optimizer.zero_grad(set_to_none=True)

    def watch(self, pulse: Pulse, number: int) -> None:
        """The notes of a step: images are loaded, two sums are waited for, a step is done."""
        with self._timed("heartbeat"):
            for activity in (LOADING, WAITING, WAITING):
                with pulse.doing(activity):
                    pass
            pulse.step_done(0, number, BATCH)

    def guard(self, cam_BCHW: torch.Tensor, loss: torch.Tensor) -> None:
        """What looks for numbers that are not finite."""
        with self._timed("not finite"):
            cam_PHW = cam_BCHW[torch.arange(PAIRS) % BATCH, torch.arange(PAIRS) % CLASSES]
            self.found += int((~torch.isfinite(cam_PHW).all(dim=2).all(dim=1)).sum())
            self.found += not math.isfinite(float(loss))
            self.found += not finite_gradients(self.trainable.model.parameters())

    def sign(self) -> None:
        """The checksum of each record that the step changes."""
        with self._timed("checksums"):
            for record in self.records:
                zlib.crc32(record)

    @contextlib.contextmanager
    def _timed(self, name: str):
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


def measure(rounds: int, times: int) -> tuple[list[Figure], list[str]]:
    """The figures, and notes with the times behind them."""
    training = Training()
    config = RuntimeConfig(quiet_s=max(0.1, 6 * BEAT_S / times))
    with tempfile.TemporaryDirectory(dir=".") as folder:

        def watched() -> None:
            said = io.StringIO()  # with so little patience it speaks at every step
            with contextlib.redirect_stdout(said), open_heartbeat(config, 0, 1) as heartbeat:
                heartbeat.run_dir = Path(folder)
                with heartbeat.pulse.doing("training"):
                    training.step(heartbeat.pulse, times)

        seconds = in_turn({"without": lambda: training.step(None, 0), "with": watched}, rounds, 2)
    share, notes = share_of_a_step(seconds["without"], seconds["with"], times)
    per_step = 100 / times / (rounds + 2) / float(np.median(seconds["without"]))
    assert not training.found, "random images gave numbers that are not finite"
    return [
        Figure("watching and guarding a step, with against without", share, "%", "<= 1"),
        *(
            Figure(f"of it for {what}", training.seconds[name] * per_step, "%")
            for name, what in (
                ("heartbeat", "heartbeat and watchdog"),
                ("not finite", "numbers that are not finite"),
                ("checksums", "checksums of the maps"),
            )
        ),
    ], notes


def main() -> int:
    """Measures, prints the table, and writes it as JSON where asked."""
    return run_step_benchmark(__doc__.splitlines()[0], "A step that is watched", measure)


if __name__ == "__main__":
    sys.exit(main())
