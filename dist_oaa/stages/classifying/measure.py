"""Measuring attention on the images that have masks, each rank on the images it owns.

Current CAM and cumulative maps go through the same steps: the map of the whole image at map_size
cells, then the size of the mask. Counts are summed over ranks, so that the figures do not depend
on the world size. Of the network `two_branch` CAM is that of F1, which accumulates, and
`integral` is the attention of F2.
"""

import numpy as np
import torch

from dist_oaa.attention.batch import Pairs
from dist_oaa.attention.vectorised import attention_maps, sample_maps
from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.data.loader import MEASURE, Batch
from dist_oaa.data.sample import ImageSet
from dist_oaa.evaluation.classification import mean_average_precision, top_k_accuracy
from dist_oaa.models.classifier import Prediction, valid_cells
from dist_oaa.models.losses import probabilities
from dist_oaa.runtime.distributed import World
from dist_oaa.stages.classifying.stage import ClassifyStage
from dist_oaa.stages.tally import ImageMaps, MapTally, Measurement
from dist_oaa.stages.training import autocast

INTEGRAL = "integral"
"""The maps of F2, as those of `oaa integral` are called."""
TOP = (1, 5)


class Measurer:
    """Measures a stage's classifier and maps.

    Args:
        gallery: indices of the images whose maps are kept for pictures.
    """

    def __init__(
        self, config: ClassifyConfig, world: World, image_set: ImageSet, gallery: np.ndarray
    ) -> None:
        self.config, self.world, self.image_set, self.gallery = config, world, image_set, gallery
        self._tally()  # refuses a saliency folder that is not there before the run begins

    def _tally(self) -> MapTally:
        return MapTally(self.config.evaluate, self.config.data.root, self.image_set)

    def measure(self, stage: ClassifyStage, indices: np.ndarray) -> Measurement:
        """Measures the images of `indices`, on all ranks together.

        Raises:
            UserError: when a mask or saliency map is missing, unreadable or of another size.
        """
        kinds = ("cam", *stage.accumulators, *([INTEGRAL] if stage.branch.exists else []))
        tallies = {kind: self._tally() for kind in kinds}
        scores: list[tuple[int, np.ndarray]] = []
        pictures: list[ImageMaps] = []
        self.world.agree(lambda: self._local(stage, indices, tallies, scores, pictures))
        for tally in tallies.values():
            tally.sum(self.world)
        gathered = [pair for part in self.world.gather(scores) for pair in part]
        images = [image for part in self.world.gather(pictures) for image in part]
        metrics = self._classification(sorted(gathered, key=lambda pair: pair[0]))
        for kind, tally in tallies.items():
            metrics |= tally.figures(kind)
        per_class = {kind: tally.per_class for kind, tally in tallies.items() if tally.images_1[0]}
        return Measurement(metrics, per_class, sorted(images, key=lambda i: i.sample.id))

    def _classification(self, scores: list[tuple[int, np.ndarray]]) -> dict[str, float]:
        single = self.config.model.labels == "single"
        names = ["classifier/map", *(f"classifier/top{k}" for k in TOP if single)]
        if not scores:
            return dict.fromkeys(names, float("nan"))
        labels_NC = self.image_set.labels_NC[[index for index, _ in scores]]
        scores_NC = np.stack([s for _, s in scores])
        figures = [mean_average_precision(scores_NC, labels_NC)[0]]
        if single:
            class_N = labels_NC.argmax(axis=1)
            figures += [top_k_accuracy(scores_NC, class_N, k) for k in TOP]
        return dict(zip(names, figures, strict=True))

    @torch.no_grad()
    def _local(
        self,
        stage: ClassifyStage,
        indices: np.ndarray,
        tallies: dict[str, MapTally],
        scores: list[tuple[int, np.ndarray]],
        pictures: list[ImageMaps],
    ) -> None:
        """This rank's images: fills the tallies, the scores and the pictures."""
        stage.trainable.model.eval()
        optim, world = self.config.optim, self.world
        size = max(1, optim.batch_size // (optim.groups or world.size))
        parts = stage.order.measured(indices, size, world.rank, world.size)
        for batch in stage.loader.load(parts, MEASURE):
            logits_BC, images = self._maps(stage, batch)
            for index, logits_C, maps in zip(
                batch.index_B.tolist(), logits_BC, images, strict=True
            ):
                scores.append((index, logits_C))
                if index in self.gallery:
                    pictures.append(maps)
                self._count(maps, tallies)

    def _maps(self, stage: ClassifyStage, batch: Batch) -> tuple[np.ndarray, list[ImageMaps]]:
        if len(batch) == 0:
            return np.zeros((0, len(self.image_set.class_names)), np.float32), []
        device, model = self.world.device, stage.trainable.model
        extent_B2 = batch.extent_B2.to(device)
        images_B3HW = stage.images(batch, extent_B2)
        with autocast(self.config.optim, device):
            predicted = model(images_B3HW, extent_B2)
        pairs = stage.accumulator.pairs(batch.index_B, batch.labels_BC).to(device)
        cells_B2 = valid_cells(extent_B2, images_B3HW.shape[-2:], predicted.cam_BCHW.shape[-2:])
        geometry_P23 = batch.geometry_B23.to(device)[pairs.image_P]
        maps = self._seen_now(stage, predicted, pairs, cells_B2[pairs.image_P], geometry_P23)
        for kind, accumulator in stage.accumulators.items():
            maps[kind] = accumulator.bank.attention(pairs.row_P).cpu().numpy()
        owner_P = pairs.image_P.cpu().numpy()
        images = [
            ImageMaps(self.image_set.samples[i], {k: m[owner_P == b] for k, m in maps.items()})
            for b, i in enumerate(batch.index_B.tolist())
        ]
        logits_BC = predicted.logits_BC.float()
        if self.config.model.labels == "single":
            # Average precision compares images: a softmax's logits are only good within one.
            logits_BC = probabilities(logits_BC, "single")
        return logits_BC.cpu().numpy(), images

    def _seen_now(
        self,
        stage: ClassifyStage,
        predicted: Prediction,
        pairs: Pairs,
        cells_P2: torch.Tensor,
        geometry_P23: torch.Tensor,
    ) -> dict[str, np.ndarray]:
        """The maps that the network itself makes of a batch, each (P, S, S)."""
        image_P, class_P, size = pairs.image_P, pairs.class_P, self.config.accumulate.map_size
        cam_PHW = predicted.accumulated_BCHW[image_P, class_P]
        maps = {"cam": attention_maps(cam_PHW, cells_P2, geometry_P23, size)[0].cpu().numpy()}
        if stage.branch.exists:
            q_PHW = torch.sigmoid(predicted.cam_BCHW[image_P, class_P].float())
            maps[INTEGRAL] = sample_maps(q_PHW, cells_P2, geometry_P23, size)[0].cpu().numpy()
        return maps

    def _count(self, image: ImageMaps, tallies: dict[str, MapTally]) -> None:
        # The truth is the same for all kinds: its files are read once.
        truth = tallies["cam"].truth(image.sample)
        for kind, tally in tallies.items():
            tally.add(image.sample, image.maps[kind], truth)
