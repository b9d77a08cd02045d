"""Run under torchrun by test_elastic.py: runs of `oaa` one after another, each in its own world.

usage: elastic_worker.py RUNS

RUNS is a JSON file: a list of {"ranks", "port", "argv", "log", "stop_at", "one_by_one"}. The first
`ranks` processes take part in a run, as if torchrun had started that many; the others go on to the
next. Starting Python and torch costs far more than such a run, hence one start for all.

stop_at: all ranks are asked to stop, as by a signal, in this optimiser step (counted from 1).
one_by_one: the network looks at each image by itself, so that its maps are a function of weights
and image alone, whatever shares the batch.
log: each rank adds a line [rank, epoch, step, names] for each step to LOG.RANK.
"""

import json
import os
import sys
from pathlib import Path

import torch

from dist_oaa.cli import run
from dist_oaa.config.errors import Interrupted
from dist_oaa.models.classifier import OnlineCAMClassifier
from dist_oaa.models.online_cam import Prediction
from dist_oaa.runtime.loop import Loop

SOUND_STEP, SOUND_FORWARD = Loop._step, OnlineCAMClassifier.forward


def forward_one_by_one(model, images_B3HW, extent_B2=None, occluded_BHW=None, erasing=None):
    """The network's prediction of a batch, put together from those of its images."""

    def part(tensor, b):
        return None if tensor is None else tensor[b : b + 1]

    found = [
        SOUND_FORWARD(
            model,
            # Memory of its own: a slice would be laid out by the batch that it was cut from.
            images_B3HW[b : b + 1].clone(memory_format=torch.contiguous_format),
            part(extent_B2, b),
            part(occluded_BHW, b),
        )
        for b in range(len(images_B3HW))
    ]
    return Prediction(
        *(torch.cat([getattr(f, n) for f in found]) for n in ("logits_BC", "cam_BCHW"))
    )


def watch_steps(log: Path, stop_at: int) -> None:
    """Every step notes the images that it has, and one of them asks to stop."""

    def step(loop, batch):
        at = loop.position
        with open(f"{log}.{loop.world.rank}", "a") as file:
            line = [loop.world.rank, at.epoch, at.step_in_epoch, list(batch.ids)]
            file.write(json.dumps(line) + "\n")
        if at.step + 1 == stop_at:
            loop.stop.reason = "the test"
        return SOUND_STEP(loop, batch)

    Loop._step = step


def main(runs: str) -> None:
    place = int(os.environ["RANK"])
    # Else the ranks would meet at torchrun's own store, which knows one world alone.
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    for number, each in enumerate(json.loads(Path(runs).read_text())):
        if place >= each["ranks"]:
            continue
        os.environ["WORLD_SIZE"] = os.environ["LOCAL_WORLD_SIZE"] = str(each["ranks"])
        os.environ["MASTER_PORT"] = str(each["port"])
        watch_steps(Path(each["log"]), each["stop_at"])
        OnlineCAMClassifier.forward = forward_one_by_one if each["one_by_one"] else SOUND_FORWARD
        print(f"rank {place} run {number}: {each['log']}", flush=True)
        stopped = False
        try:
            run(each["argv"])
        except Interrupted:
            stopped = True
        assert stopped == bool(each["stop_at"]), each


if __name__ == "__main__":
    main(sys.argv[1])
