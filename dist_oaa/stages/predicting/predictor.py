"""A segmentation network over many images: read, score, and hand on to be finished.

Rank r of W takes the images r, r + W, ...; where a problem or a signal stops one rank, all stop.

Shapes: HW3 an image, L labels (background first), J those that win anywhere and the background.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import Interrupted, UserError
from dist_oaa.models.segmentation.scoring import Scorer
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.evaluating.segmenting import probabilities_of
from dist_oaa.stages.labelling.pool import WorkerPool
from dist_oaa.stages.labelling.rounds import processes_of, share, work_through
from dist_oaa.stages.predicting.finish import (
    Failed,
    Finisher,
    Prediction,
    Scored,
    finish,
    read_photograph,
)
from dist_oaa.stages.predicting.sources import Source

FEW = 16
"""Images of a rank that are not worth the start of processes."""
MOST_PROCESSES = 8
"""What one network can keep busy, or nearly so, on its own accord."""


@dataclass(frozen=True)
class Predictor:
    """Predicts images on all ranks together."""

    world: World
    scorer: Scorer
    data: DataConfig
    """How the network looks at an image (resize, size)."""
    finisher: Finisher
    pixel_limit: float
    """Largest image that is decoded, in megapixels."""
    on_bad_image: str
    """stop or skip."""
    processes: int
    """As `PredictConfig.processes`."""
    stop: StopFlag
    reporter: Reporter

    def run(self, sources: Sequence[Source]) -> list[Prediction | Failed]:
        """Writes the files of all images; called by all ranks.

        Returns:
            what became of each image, in the order of the sources, on every rank.

        Raises:
            UserError: an unreadable image where such a one stops; the disk; scores that are not
                finite.
            RunError: a process has died.
            Interrupted: after a signal.
        """
        found: list[Prediction | Failed] = []
        with ExitStack() as stack:
            results = self._results(share(self.world, sources), stack)
            # One image at a time: a large one in tiles takes many seconds.
            work_through(self.world, self.reporter, results, len(sources), found.append, at_once=1)
        parts = self.world.gather(found)
        return [parts[i % len(parts)][i // len(parts)] for i in range(len(sources))]

    def _results(
        self, sources: Sequence[Source], stack: ExitStack
    ) -> Iterator[Prediction | Failed]:
        scored = (self.score(source) for source in sources)
        processes = self.processes
        if not processes:
            processes = min(processes_of(0), MOST_PROCESSES) if len(sources) > FEW else 1
        if processes == 1:
            return (finish(self.finisher, one) for one in scored)
        settings = [getattr(self.finisher, f.name) for f in dataclasses.fields(Finisher)]
        pool = stack.enter_context(WorkerPool(processes, Finisher, *settings))
        return pool.map(finish, scored, self.stop)

    def score(self, source: Source) -> Scored | Failed:
        """Reads an image and runs the network on it.

        Raises:
            UserError: when the image cannot be read and such a one stops, or the scores are not
                finite.
            Interrupted: after a signal.
        """
        if self.stop.reason:
            raise Interrupted(f"stopped by {self.stop.reason}")
        since = time.perf_counter()
        image_HW3 = read_photograph(source, self.pixel_limit, self.on_bad_image)
        if isinstance(image_HW3, Failed):
            return image_HW3
        probabilities_LHW = probabilities_of(self.scorer, image_HW3, self.data)
        if not bool(torch.isfinite(probabilities_LHW).all()):
            raise UserError(
                f"the network's scores for {source.path} are not finite: the checkpoint's weights "
                f"are not, or precision {self.scorer.precision} does not suit it (fp32 suits all)"
            )
        label_HW = probabilities_LHW.argmax(dim=0)
        present_L = torch.bincount(label_HW.ravel(), minlength=len(probabilities_LHW)) > 0
        present_L[0] = True
        labels_J = present_L.nonzero()[:, 0]
        chosen = None
        if self.finisher.crf is not None:
            # The labels that win nowhere need not travel to another process.
            chosen = probabilities_LHW[labels_J].cpu().numpy()
        return Scored(
            source,
            image_HW3,
            label_HW.to(torch.uint8).cpu().numpy(),
            labels_J.to(torch.uint8).cpu().numpy(),
            chosen,
            time.perf_counter() - since,
        )
