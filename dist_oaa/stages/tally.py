"""Counting attention maps against masks: what every figure about maps is made of.

A map covers the whole image on a square grid; it is spread over the pixels of the mask, divided
by its own maximum and counted three ways: attention quality, seeds, and (where there is saliency)
pseudo labels. All counts are integers that add up over images and ranks, so that the figures do
not depend on which rank counted what.

Legend: K target classes of one image; S map cells along a side; HW the pixels of its mask.
"""

import difflib
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.config.labels import RecipeConfig
from dist_oaa.config.run import EvaluateConfig
from dist_oaa.data.images import read_image, read_mask
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.evaluation.attention import AttentionQuality
from dist_oaa.evaluation.maps import own_maximum, resize_map
from dist_oaa.evaluation.seeds import SeedSweep
from dist_oaa.evaluation.segmentation import Confusion
from dist_oaa.labels.background import ColourAgreement
from dist_oaa.labels.recipe import pseudo_label
from dist_oaa.labels.saliency import read_saliency
from dist_oaa.runtime.distributed import World


@dataclass
class ImageMaps:
    """Maps of one image's target classes, K x S x S float32 in [0, 1]."""

    sample: Sample
    maps: dict[str, np.ndarray]
    """By kind, such as `cam` and `cumulative`."""


@dataclass
class Measurement:
    """Figures of one measurement, the same on every rank."""

    metrics: dict[str, float]
    per_class: dict[str, dict[int, tuple[float, float]]]
    """By kind: (recall, noise) of each class that occurs."""
    gallery: list[ImageMaps] = field(default_factory=list)
    """Maps of the gallery's images, in name order."""


@dataclass(frozen=True)
class Truth:
    """What one image is measured against."""

    mask_HW: np.ndarray
    saliency_HW: np.ndarray | None


def listed_images(evaluate: EvaluateConfig, image_set: ImageSet) -> frozenset[str] | None:
    """The names in the file `evaluate.list`; None where there is no such file.

    Raises:
        UserError: when it cannot be read, holds no name, or one that the image set lacks.
    """
    if not evaluate.list:
        return None
    path = Path(image_set.root) / evaluate.list
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"evaluate.list {path} cannot be read: {error}") from error
    names = frozenset(line.strip() for line in lines if line.strip())
    unknown = sorted(names - {sample.id for sample in image_set.samples})
    if unknown or not names:
        what = f"names {unknown[0]!r}, which is not" if unknown else "names none"
        raise UserError(f"evaluate.list {path} {what} among the {len(image_set)} images read")
    return names


def measured_images(
    image_set: ImageSet, count: int, names: frozenset[str] | None = None
) -> np.ndarray:
    """Indices of the images to measure: those with masks (all, where none has one).

    Args:
        count: how many, chosen by the hash of their names and so the same in every run; 0 is all.
        names: only images of these names.
    """
    among = [i for i, s in enumerate(image_set.samples) if names is None or s.id in names]
    having = [i for i in among if image_set.samples[i].mask] or among
    if not count:
        return np.array(having, dtype=np.int64)

    def digest(index: int) -> bytes:
        return hashlib.blake2b(image_set.samples[index].id.encode(), digest_size=8).digest()

    return np.array(sorted(sorted(having, key=digest)[:count]), dtype=np.int64)


def gallery_images(image_set: ImageSet, count: int) -> np.ndarray:
    """Indices of the images that are drawn; always among the measured ones."""
    return measured_images(image_set, count) if count else np.array([], dtype=np.int64)


def drawn_images(image_set: ImageSet, evaluate: EvaluateConfig) -> np.ndarray:
    """Indices of the images that a training run draws: the gallery, and those it is to follow.

    Raises:
        UserError: when evaluate.follow names an image that is not there.
    """
    index_of = {sample.id: i for i, sample in enumerate(image_set.samples)}
    for name in evaluate.follow:
        if name not in index_of:
            near = difflib.get_close_matches(name, index_of, n=1)
            hint = f"; the nearest name is {near[0]}" if near else ""
            raise UserError(
                f"evaluate.follow names {name!r}, which is not among the {len(image_set)} images "
                f"read{hint}"
            )
    followed = np.array([index_of[name] for name in evaluate.follow], dtype=np.int64)
    return np.union1d(gallery_images(image_set, evaluate.gallery), followed)


class MapTally:
    """Counts one kind of map over the images that have masks.

    Args:
        evaluate: `thresholds` and `saliency_dir` count here.
        data_root: what a relative `saliency_dir` begins at.

    Raises:
        UserError: when the saliency folder does not exist.
    """

    def __init__(self, evaluate: EvaluateConfig, data_root: str, image_set: ImageSet) -> None:
        classes = len(image_set.class_names)
        self.image_set, self.names = image_set, listed_images(evaluate, image_set)
        self.saliency_dir = None
        if evaluate.saliency_dir:
            self.saliency_dir = Path(data_root) / evaluate.saliency_dir
            if not self.saliency_dir.is_dir():
                raise UserError(
                    f"evaluate.saliency_dir {self.saliency_dir} is no folder, expected one with "
                    "a grey PNG for each image"
                )
        self.images_1 = np.zeros(1, dtype=np.int64)
        self.quality = AttentionQuality(classes)
        self.seeds = SeedSweep(classes, evaluate.thresholds)
        self.labels = Confusion(classes)
        """Pseudo labels by the recipe."""
        self.dense = Confusion(classes)
        """Pseudo labels with nothing ignored."""
        self.colour = ColourAgreement(evaluate.thresholds) if evaluate.label_free else None

    def truth(self, sample: Sample) -> Truth | None:
        """Mask and saliency of an image; None where it has no mask, or is not to be measured.

        Raises:
            UserError: when either is missing, unreadable or of another size.
        """
        if sample.mask is None or (self.names is not None and sample.id not in self.names):
            return None
        mask_HW = read_mask(sample.mask)
        return Truth(mask_HW, self._saliency(sample, mask_HW.shape))

    def add(self, sample: Sample, maps_KSS: np.ndarray, truth: Truth | None = None) -> None:
        """Counts the maps of one image; one without a mask counts in `colour` alone.

        Args:
            maps_KSS: float32 in [0, 1], in the order of `sample.classes`.
            truth: what `truth(sample)` gave, where several kinds of map share it.

        Raises:
            UserError: what `truth` raises, and a mask with an unknown palette value.
        """
        if self.colour is not None and (self.names is None or sample.id in self.names):
            # The loader has read it before, under the user's limit.
            self.colour.update(read_image(sample.path, math.inf), maps_KSS)
        truth = truth or self.truth(sample)
        if truth is None:
            return
        maps_KHW = np.stack(
            [own_maximum(resize_map(map_SS, *truth.mask_HW.shape)) for map_SS in maps_KSS]
        )
        try:
            for class_index, map_HW in zip(sample.classes, maps_KHW, strict=True):
                self.quality.update(class_index, map_HW, truth.mask_HW)
        except ValueError as error:
            raise UserError(f"mask {sample.mask}: {error}") from error
        self.seeds.update(sample.classes, maps_KHW, truth.mask_HW)
        if truth.saliency_HW is not None:
            for confusion, ignore in ((self.labels, True), (self.dense, False)):
                label_HW = pseudo_label(
                    sample.classes, maps_KHW, truth.saliency_HW, RecipeConfig(), ignore
                )
                confusion.update(label_HW, truth.mask_HW)
        self.images_1 += 1

    def add_records(self, records: Iterable[tuple[str, int, np.ndarray]]) -> None:
        """Counts the maps of a store or folder: (image id, class index, map) in any order.

        Every image of the set with a mask is counted; a target class without a map counts as one
        that attends to nothing. Maps are uint8, round(255 a), or float32 in [0, 1].

        Raises:
            UserError: when there is a map of an image that the set lacks; what `add` raises.
        """
        kept: dict[str, dict[int, np.ndarray]] = {s.id: {} for s in self.image_set.samples}
        size = 1
        for image_id, class_index, map_SS in records:
            if image_id not in kept:
                raise UserError(
                    f"there is a map of image {image_id!r}, which is not among the "
                    f"{len(self.image_set)} images of {self.image_set.root}"
                )
            kept[image_id][class_index] = map_SS
            size = len(map_SS)
        nothing_SS = np.zeros((size, size), dtype=np.uint8)
        for sample in self.image_set.samples:
            maps = [kept[sample.id].get(c, nothing_SS) for c in sample.classes]
            self.add(sample, np.stack([unit(map_SS) for map_SS in maps]))

    def sum(self, world: World) -> None:
        """Adds up the counts of all ranks; each then has the whole. Called by all, once."""
        for counts in (self.images_1, *(each.counts for each in self._measures())):
            counts[...] = world.sum(counts)

    def figures(self, kind: str) -> dict[str, float]:
        """All figures, fractions from 0 to 1, as KIND/name.

        recall, noise and f_score (attention quality), seed_miou and seed_threshold; with saliency
        also label_miou and label_ignored (the recipe) and dense_label_miou (nothing ignored); all
        of them only where some image had a mask. colour needs none, where it is asked for.
        """
        free = {} if self.colour is None else {f"{kind}/colour": self.colour.result()}
        if not self.images_1[0]:
            return free
        quality, sweep = self.quality.result(), self.seeds.result()
        figures = {
            f"{kind}/recall": quality.recall,
            f"{kind}/noise": quality.noise,
            f"{kind}/f_score": quality.f_score,
            f"{kind}/seed_miou": sweep.best_miou,
            f"{kind}/seed_threshold": sweep.best_threshold,
        }
        if self.saliency_dir is not None:
            labels = self.labels.result()
            figures[f"{kind}/label_miou"] = labels.miou
            figures[f"{kind}/label_ignored"] = labels.ignored
            figures[f"{kind}/dense_label_miou"] = self.dense.result().miou
        return figures | free

    @property
    def per_class(self) -> dict[int, tuple[float, float]]:
        """(recall, noise) of each class that occurs."""
        return self.quality.result().per_class

    def _measures(self) -> tuple:
        free = () if self.colour is None else (self.colour,)
        return self.quality, self.seeds, self.labels, self.dense, *free

    def _saliency(self, sample: Sample, shape: tuple[int, int]) -> np.ndarray | None:
        if self.saliency_dir is None:
            return None
        return read_saliency(self.saliency_dir, sample.id, shape)


def unit(map_SS: np.ndarray) -> np.ndarray:
    """A map as float32 in [0, 1], from uint8 or any float."""
    if map_SS.dtype == np.uint8:
        return map_SS.astype(np.float32) / np.float32(255)
    return map_SS.astype(np.float32)
