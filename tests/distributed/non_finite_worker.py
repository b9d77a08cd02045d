"""Run under torchrun by test_non_finite_steps.py: `oaa` whose loss of some images is a NaN.

usage: non_finite_worker.py FAULTS classify ...

FAULTS is JSON: for each epoch the names of the images whose batch has a loss that is not finite,
on whichever rank has them. In the end each rank prints a hash of its weights, and every rank's
weights must have the same.
"""

import hashlib
import json
import math
import sys

from dist_oaa.cli import main
from dist_oaa.runtime.loop import Loop
from dist_oaa.stages.classifying.stage import ClassifyStage


def break_losses(faults: list[list[str]]) -> None:
    sound = ClassifyStage.forward

    def forward(stage, batch, epoch):
        loss, counts = sound(stage, batch, epoch)
        return loss * math.nan if set(batch.ids) & set(faults[epoch]) else loss, counts

    ClassifyStage.forward = forward


def tell_weights() -> None:
    run = Loop.run

    def told(loop):
        try:
            return run(loop)
        finally:
            weights = loop.trainable.model.state_dict().values()
            digest = hashlib.sha256(b"".join(w.numpy().tobytes() for w in weights)).hexdigest()
            at = f"rank {loop.world.rank} steps {loop.position.step}"
            print(f"{at} weights {digest}", flush=True)

    Loop.run = told


if __name__ == "__main__":
    break_losses(json.loads(sys.argv[1]))
    tell_weights()
    main(sys.argv[2:])
