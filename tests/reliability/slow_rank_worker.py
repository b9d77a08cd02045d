"""`oaa` with a rank 1 that works slowly in some of its steps: see test_watching.py."""

import os
import sys
import time

from dist_oaa.cli import main
from dist_oaa.stages.classifying.stage import ClassifyStage

FIRST, LAST = 12, 45
"""Steps of the slow time."""
USUAL_S, SLOW_S = 0.15, 0.6
"""Seconds that a step takes at least: far more than a busy machine adds."""

if __name__ == "__main__":
    sound, seen = ClassifyStage.forward, []

    def forward(stage, batch, epoch):
        seen.append(epoch)
        slow = os.environ["RANK"] == "1" and FIRST <= len(seen) <= LAST
        time.sleep(SLOW_S if slow else USUAL_S)
        return sound(stage, batch, epoch)

    ClassifyStage.forward = forward
    main(sys.argv[1:])
