"""Label images of a trained network, image by image, with the reading done ahead.

Legend: L label channels (background first), HW the pixels of an image, J the labels it shows.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.evaluate import EvaluationConfig
from dist_oaa.data.augment import resize, resized_shape
from dist_oaa.data.images import BadImageError, read_image
from dist_oaa.data.loader import check_bad_images
from dist_oaa.data.sample import ImageSet
from dist_oaa.models.segmentation.scoring import Scorer
from dist_oaa.runtime.distributed import World
from dist_oaa.stages.evaluating.measuring import Segmented, ToRefine
from dist_oaa.stages.trained_segmenter import TrainedSegmenter


def build_scorer(config: EvaluationConfig, trained: TrainedSegmenter, world: World) -> Scorer:
    """What looks at the images, as the settings say.

    Raises:
        UserError: when fp16 is asked for on a CPU, or overlap does not fit the network's stride.
    """
    if config.precision == "fp16" and world.device.type == "cpu":
        raise UserError("precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    try:
        return Scorer(
            trained.network,
            world.device,
            scales=config.views.scales,
            flip=config.views.flip,
            tile=config.tile,
            overlap=config.overlap,
            precision=config.precision,
            size=config.data.size if config.data.resize == "short_side" else 0,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


@dataclass(frozen=True)
class NetworkSegmenter:
    """Segments images one after the other; all that follows is left to `measure_one`."""

    image_set: ImageSet
    data: DataConfig
    """How images are read, and what a bad one does."""
    scorer: Scorer
    crf: bool
    """Whether the CRF is still to come."""
    kept: frozenset[int] = frozenset()
    """Images whose label image is wanted back, to be drawn."""

    def segment(self, indices: Sequence[int]) -> Iterator[Segmented]:
        """The images in this order.

        Raises:
            UserError: when one cannot be read and `data.on_bad_image` says stop, or the network's
            scores are not finite.
        """
        readers = max(1, self.data.workers)
        with ThreadPoolExecutor(readers) as pool:
            waiting: deque[tuple[int, Future]] = deque()
            rest = iter(indices)
            try:
                while True:
                    for index in islice(rest, 2 * readers - len(waiting)):
                        waiting.append((index, pool.submit(self._read, index)))
                    if not waiting:
                        return
                    index, future = waiting.popleft()
                    yield self._segment(index, future.result())
            finally:
                for _, future in waiting:
                    future.cancel()

    def _read(self, index: int) -> np.ndarray | str:
        try:
            # PIL's decoders let other threads run meanwhile.
            return read_image(self.image_set.samples[index].path, self.data.pixel_limit)
        except BadImageError as error:
            return str(error)

    def _segment(self, index: int, image_HW3: np.ndarray | str) -> Segmented:
        sample = self.image_set.samples[index]
        if isinstance(image_HW3, str):
            check_bad_images([image_HW3], self.data.on_bad_image)
            return Segmented(index, sample, bad=image_HW3)
        probabilities_LHW = probabilities_of(self.scorer, image_HW3, self.data)
        if not bool(torch.isfinite(probabilities_LHW).all()):
            raise UserError(
                f"the network's scores for {sample.path} are not finite: its weights are not "
                f"either, or {self.scorer.precision} is too coarse for it (precision fp32 is not)"
            )
        label_HW = probabilities_LHW.argmax(0).to(torch.uint8)
        keep = index in self.kept
        if not self.crf:
            return Segmented(index, sample, keep, label_HW=label_HW.cpu().numpy())
        present_J = torch.unique(torch.cat([label_HW.flatten(), label_HW.new_zeros(1)]))
        refine = ToRefine(
            image_HW3, present_J.cpu().numpy(), probabilities_LHW[present_J.long()].cpu().numpy()
        )
        return Segmented(index, sample, keep, to_refine=refine)


def probabilities_of(scorer: Scorer, image_HW3: np.ndarray, data: DataConfig) -> torch.Tensor:
    """Probabilities (L, H, W) of an image at its own size, looked at as in its training.

    With `data.resize` square the network sees the image warped to a square; all else is the
    scorer's own affair.
    """
    if data.resize != "square":
        return scorer.probabilities(image_HW3)
    shape = resized_shape(*image_HW3.shape[:2], data, 1)
    warped_LHW = scorer.probabilities(resize(image_HW3, *shape))
    return F.interpolate(warped_LHW[None], size=image_HW3.shape[:2], mode="bilinear")[0]


@dataclass(frozen=True)
class FolderSegmenter:
    """Label images that lie in a folder: nothing is left to do but to measure them."""

    image_set: ImageSet
    kept: frozenset[int] = frozenset()

    def segment(self, indices: Sequence[int]) -> Iterator[Segmented]:
        """The images in this order; the label images are read where they are measured."""
        for index in indices:
            yield Segmented(index, self.image_set.samples[index], index in self.kept)
