"""Measuring attention on the images that have masks, each rank on the images it owns.

Current CAM and cumulative maps go through the same steps: the map of the whole image at map_size
cells, then the size of the mask. Counts are summed over ranks, so that the figures do not depend
on the world size.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dist_oaa.attention.vectorised import attention_maps
from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.labels import RecipeConfig
from dist_oaa.data.images import BadImageError, read_mask
from dist_oaa.data.loader import MEASURE, Batch
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.evaluation.attention import AttentionQuality
from dist_oaa.evaluation.classification import mean_average_precision
from dist_oaa.evaluation.maps import own_maximum, resize_map
from dist_oaa.evaluation.seeds import SeedSweep
from dist_oaa.evaluation.segmentation import Confusion
from dist_oaa.labels.recipe import pseudo_label
from dist_oaa.models.classifier import valid_cells
from dist_oaa.runtime.distributed import World
from dist_oaa.stages.classify_stage import ClassifyStage
from dist_oaa.stages.training import autocast

KINDS = ("cam", "cumulative")


def measured_images(image_set: ImageSet, count: int) -> np.ndarray:
    """Indices of the images to measure: those with masks (all, where none has one).

    Args:
        count: how many, chosen by the hash of their names and so the same in every run; 0 is all.
    """
    having = [i for i, s in enumerate(image_set.samples) if s.mask] or range(len(image_set))
    if not count:
        return np.array(having, dtype=np.int64)

    def digest(index: int) -> bytes:
        return hashlib.blake2b(image_set.samples[index].id.encode(), digest_size=8).digest()

    return np.array(sorted(sorted(having, key=digest)[:count]), dtype=np.int64)


@dataclass
class ImageMaps:
    """Maps of one image's target classes, K x S x S float32 in [0, 1]."""

    sample: Sample
    maps: dict[str, np.ndarray]
    """By kind: the current CAM and the cumulative map."""


@dataclass
class Tally:
    """All counts of one kind of map."""

    quality: AttentionQuality
    seeds: SeedSweep
    labels: Confusion
    """Pseudo labels by the recipe."""
    dense: Confusion
    """Pseudo labels with nothing ignored."""

    def accumulators(self) -> tuple:
        """Those whose counts are summed over ranks."""
        return self.quality, self.seeds, self.labels, self.dense


@dataclass
class Measurement:
    """Figures of one measurement, the same on every rank."""

    metrics: dict[str, float]
    per_class: dict[str, dict[int, tuple[float, float]]]
    """By kind: (recall, noise) of each class that occurs."""
    gallery: list[ImageMaps] = field(default_factory=list)
    """Maps of the gallery's images, in name order."""


class Measurer:
    """Measures a stage's classifier and maps.

    Args:
        gallery: indices of the images whose maps are kept for pictures.
    """

    def __init__(
        self, config: ClassifyConfig, world: World, image_set: ImageSet, gallery: np.ndarray
    ) -> None:
        self.config, self.world, self.image_set, self.gallery = config, world, image_set, gallery
        self.saliency_dir = None
        if config.evaluate.saliency_dir:
            self.saliency_dir = Path(config.data.root) / config.evaluate.saliency_dir
            if not self.saliency_dir.is_dir():
                raise UserError(
                    f"evaluate.saliency_dir {self.saliency_dir} is no folder, expected one with "
                    "a grey PNG for each image"
                )

    def measure(self, stage: ClassifyStage, indices: np.ndarray) -> Measurement:
        """Measures the images of `indices`, on all ranks together.

        Raises:
            UserError: when a mask or saliency map is missing, unreadable or of another size.
        """
        owned = set(stage.accumulator.store.owned)
        mine = indices[[int(s) in owned for s in stage.order.shard_N[indices]]]
        tallies = {kind: self._tally() for kind in KINDS}
        scores: list[tuple[int, np.ndarray]] = []
        pictures: list[ImageMaps] = []
        self.world.agree(lambda: self._local(stage, mine, tallies, scores, pictures))
        for tally in tallies.values():
            for accumulator in tally.accumulators():
                accumulator.counts[...] = self.world.sum(accumulator.counts)
        gathered = [pair for part in self.world.gather(scores) for pair in part]
        images = [image for part in self.world.gather(pictures) for image in part]
        metrics = {"classifier/map": self._average_precision(gathered)}
        has_masks = any(self.image_set.samples[i].mask for i in indices)
        per_class = {}
        for kind, tally in tallies.items():
            if has_masks:
                metrics |= self._figures(kind, tally)
                per_class[kind] = tally.quality.result().per_class
        return Measurement(metrics, per_class, sorted(images, key=lambda i: i.sample.id))

    def _tally(self) -> Tally:
        classes = len(self.image_set.class_names)
        return Tally(
            AttentionQuality(classes),
            SeedSweep(classes, self.config.evaluate.thresholds),
            Confusion(classes),
            Confusion(classes),
        )

    def _average_precision(self, scores: list[tuple[int, np.ndarray]]) -> float:
        if not scores:
            return float("nan")
        order = sorted(scores, key=lambda pair: pair[0])
        labels_NC = self.image_set.labels_NC[[index for index, _ in order]]
        return mean_average_precision(np.stack([s for _, s in order]), labels_NC)[0]

    def _figures(self, kind: str, tally: Tally) -> dict[str, float]:
        quality, sweep = tally.quality.result(), tally.seeds.result()
        figures = {
            f"{kind}/recall": quality.recall,
            f"{kind}/noise": quality.noise,
            f"{kind}/seed_miou": sweep.best_miou,
            f"{kind}/seed_threshold": sweep.best_threshold,
        }
        if self.saliency_dir is not None:
            labels = tally.labels.result()
            figures[f"{kind}/label_miou"] = labels.miou
            figures[f"{kind}/label_ignored"] = labels.ignored
            figures[f"{kind}/dense_label_miou"] = tally.dense.result().miou
        return figures

    @torch.no_grad()
    def _local(
        self,
        stage: ClassifyStage,
        mine: np.ndarray,
        tallies: dict[str, Tally],
        scores: list[tuple[int, np.ndarray]],
        pictures: list[ImageMaps],
    ) -> None:
        """This rank's images: fills the tallies, the scores and the pictures."""
        stage.trainable.model.eval()
        size = max(1, self.config.optim.batch_size // self.world.size)
        parts = [mine[i : i + size] for i in range(0, len(mine), size)]
        for batch in stage.loader.load(parts, MEASURE):
            logits_BC, images = self._maps(stage, batch)
            for index, logits_C, maps in zip(
                batch.index_B.tolist(), logits_BC, images, strict=True
            ):
                scores.append((index, logits_C))
                if index in self.gallery:
                    pictures.append(maps)
                if maps.sample.mask is not None:
                    self._count(maps, tallies)

    def _maps(self, stage: ClassifyStage, batch: Batch) -> tuple[np.ndarray, list[ImageMaps]]:
        if len(batch) == 0:
            return np.zeros((0, len(self.image_set.class_names)), np.float32), []
        device, model = self.world.device, stage.trainable.model
        extent_B2 = batch.extent_B2.to(device)
        images_B3HW = stage.images(batch, extent_B2)
        with autocast(self.config.optim, device):
            logits_BC, cam_BCHW, _ = model(images_B3HW, extent_B2)
        pairs = stage.accumulator.pairs(batch.index_B, batch.labels_BC).to(device)
        cells_B2 = valid_cells(extent_B2, images_B3HW.shape[-2:], cam_BCHW.shape[-2:])
        cam_PSS, _, _ = attention_maps(
            cam_BCHW[pairs.image_P, pairs.class_P],
            cells_B2[pairs.image_P],
            batch.geometry_B23.to(device)[pairs.image_P],
            self.config.accumulate.map_size,
        )
        maps = {
            "cam": cam_PSS.cpu().numpy(),
            "cumulative": stage.accumulator.bank.attention(pairs.row_P).cpu().numpy(),
        }
        owner_P = pairs.image_P.cpu().numpy()
        images = [
            ImageMaps(self.image_set.samples[i], {k: m[owner_P == b] for k, m in maps.items()})
            for b, i in enumerate(batch.index_B.tolist())
        ]
        return logits_BC.float().cpu().numpy(), images

    def _count(self, image: ImageMaps, tallies: dict[str, Tally]) -> None:
        sample = image.sample
        mask_HW = read_mask(sample.mask)
        saliency_HW = self._saliency(sample, mask_HW.shape)
        for kind, tally in tallies.items():
            maps_KHW = np.stack(
                [own_maximum(resize_map(m_SS, *mask_HW.shape)) for m_SS in image.maps[kind]]
            )
            try:
                for class_index, map_HW in zip(sample.classes, maps_KHW, strict=True):
                    tally.quality.update(class_index, map_HW, mask_HW)
            except ValueError as error:
                raise UserError(f"mask {sample.mask}: {error}") from error
            tally.seeds.update(sample.classes, maps_KHW, mask_HW)
            if saliency_HW is not None:
                for confusion, ignore in ((tally.labels, True), (tally.dense, False)):
                    label_HW = pseudo_label(
                        sample.classes, maps_KHW, saliency_HW, RecipeConfig(), ignore
                    )
                    confusion.update(label_HW, mask_HW)

    def _saliency(self, sample: Sample, shape: tuple[int, int]) -> np.ndarray | None:
        if self.saliency_dir is None:
            return None
        path = self.saliency_dir / f"{sample.id}.png"
        try:
            with Image.open(path) as picture:
                saliency_HW = np.asarray(picture.convert("L"))
        except FileNotFoundError as error:
            raise UserError(f"saliency map {path} is missing, expected a grey PNG") from error
        except (OSError, SyntaxError) as error:
            raise BadImageError(f"saliency map {path} cannot be read: {error}") from error
        if saliency_HW.shape != shape:
            raise UserError(
                f"saliency map {path} has {saliency_HW.shape} pixels (height, width), expected "
                f"those of its image, {shape}"
            )
        return saliency_HW
