"""Measures what steps that are the same at any number of processes cost (--exact-elastic).

    python tools/bench_exact.py [--ranks 1 2]

Trains EfficientNet-Lite0 (224 px, stride 16, batch 16, as configs/voc12/oaa_efficientnet_lite0.yaml
does) on random images: one step under DDP (of one process: as it is), one exactly elastic step, in
turn, many times over, at each number of processes, with one arithmetic thread each. A step is what
the training loop does between two batches: forward, backward, the sums over the ranks and the
optimiser. Loading, accumulation and checkpoints are alike in both and left out.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench_common import Figure, machine, show, spread, write
from dist_oaa.config.model import ModelConfig, OptimConfig
from dist_oaa.config.run import CheckpointConfig, RuntimeConfig
from dist_oaa.models.classifier import build_classifier
from dist_oaa.models.losses import multilabel_loss_B
from dist_oaa.runtime.distributed import World, open_world
from dist_oaa.runtime.exact_step import repeatable
from dist_oaa.runtime.loop import Loop
from dist_oaa.runtime.plan import Plan, Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.training import make_trainable

CLASSES = 20
RUNTIME = RuntimeConfig(device="cpu", threads=1, timeout_s=300)


@dataclass
class Images:
    """A rank's images of a step, in one part or in virtual batches."""

    parts: list[torch.Tensor]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def split(self, _parts: int) -> list["Images"]:
        """The parts as batches of their own."""
        return [Images([part]) for part in self.parts]


class Scores:
    """The stage that is trained: a classifier's forward pass and loss."""

    counters: tuple[str, ...] = ()
    broken_counter = ""

    def __init__(self, wrapped: torch.nn.Module) -> None:
        self.wrapped = wrapped

    def forward(self, batch: Images, _epoch: int) -> tuple[torch.Tensor, list[float]]:
        """Loss sum of a part."""
        (images_B3HW,) = batch.parts
        logits_BC = self.wrapped(images_B3HW, None).logits_BC
        return multilabel_loss_B(logits_BC, torch.ones_like(logits_BC)).sum(), []


def make_loop(optim: OptimConfig, model: ModelConfig, world: World) -> Loop:
    """A loop whose single steps can be taken."""
    network, _ = build_classifier(model, CLASSES, seed=0)
    trainable = make_trainable(network, optim, world)
    network.train()
    return Loop(
        world=world,
        stage=Scores(trainable.wrapped),
        trainable=trainable,
        plan=Plan(1, 1, 1),
        optim=optim,
        run_dir=Path(),
        checkpoints=CheckpointConfig(),
        stop=StopFlag(),
        reporter=Reporter(False, 1),
        tracker=None,
        log_every=1,
        position=Position(),
    )


def images_of(args: argparse.Namespace, world: World) -> list[torch.Tensor]:
    """This rank's virtual batches, as equal in size as can be."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(args.batch, 3, args.size, args.size, generator=generator)
    parts = whole.contiguous(memory_format=torch.channels_last).tensor_split(args.parts)
    return list(parts[world.rank :: world.size])


def take_step(loop: Loop, batch: Images, images: int) -> None:
    """One step of the loop, without what surrounds it."""
    loop.gradients.compute(batch, loop.position.epoch, images)
    loop.gradients.apply()


def time_steps(args: argparse.Namespace, world: World) -> np.ndarray:
    """Seconds of this rank's steps, (rounds, 2): plain and exact."""
    model = ModelConfig(backbone=args.backbone, weights="none")
    optim = OptimConfig(lr=1e-6, exact_elastic=True, virtual_batches=args.parts)
    parts = images_of(args, world)
    loops = [make_loop(o, model, world) for o in (OptimConfig(lr=1e-6), optim)]
    batches = [Images([torch.cat(parts)]), Images(parts)]
    seconds = np.zeros((args.rounds, 2))
    for number in range(-2, args.rounds):
        # The order changes, so that a drift of the machine's speed favours neither.
        for which in (0, 1) if number % 2 else (1, 0):
            exactly = repeatable(optim, RUNTIME, world) if which else contextlib.nullcontext()
            with exactly:
                world.barrier()
                start = time.perf_counter()
                take_step(loops[which], batches[which], args.batch)
                if number >= 0:
                    seconds[number, which] = time.perf_counter() - start
    return seconds


def work(args: argparse.Namespace) -> int:
    """One rank's part of a measurement; the first writes the seconds of its steps."""
    with open_world(RUNTIME) as world:
        seconds = time_steps(args, world)
    if world.is_first:
        Path(args.json).write_text(json.dumps(seconds.tolist()))
    return 0


def measured(args: argparse.Namespace, ranks: int) -> np.ndarray:
    """Seconds (rounds, 2) at a number of processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seconds.json"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        options = ["--worker", "--json", str(path)]
        for name in ("rounds", "batch", "size", "parts", "backbone"):
            options += [f"--{name}", str(getattr(args, name))]
        command = [*launcher, "--nproc-per-node", str(ranks), __file__, *options]
        subprocess.run(command, check=True, timeout=1500)
        return np.array(json.loads(path.read_text()))


def figures_of(args: argparse.Namespace) -> Iterator[tuple[Figure, str]]:
    """A figure, and a note with the times behind it, for each number of processes."""
    for ranks in args.ranks:
        seconds = measured(args, ranks)
        ratio = seconds[:, 1] / seconds[:, 0]
        low, high = np.percentile(ratio, [20, 80])
        word = "process" if ranks == 1 else "processes"
        name = f"exactly elastic step against DDP's, {ranks} {word}"
        yield (
            Figure(name, np.median(ratio), "x"),
            f"{ranks} {word}: DDP {spread(seconds[:, 0], 1, 's')}\n"
            f"  exact {spread(seconds[:, 1], 1, 's')}; ratio p20 {low:.3g}, p80 {high:.3g}",
        )


def main() -> int:
    """Measures, prints the table, and writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="processes to try")
    parser.add_argument("--rounds", type=int, default=12, help="pairs of steps, a count")
    parser.add_argument("--batch", type=int, default=16, help="images of a step")
    parser.add_argument("--size", type=int, default=224, help="side of an image in pixels")
    parser.add_argument("--parts", type=int, default=8, help="virtual batches of a step")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="the trunk")
    parser.add_argument("--worker", action="store_true", help="(one rank of a measurement)")
    parser.add_argument("--json", default="", help="file for the figures")
    args = parser.parse_args()
    if args.worker:
        return work(args)
    found = list(figures_of(args))
    notes = [machine(), f"batch {args.batch}, {args.parts} virtual batches"]
    show([figure for figure, _ in found], "Exactly elastic steps", notes + [n for _, n in found])
    write([figure for figure, _ in found], args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
