"""Attention of a trained network over a data set: one or several views of each image, one map of
each target class, in a folder that is there whole or not at all.

Images are taken in name order, in batches whose make-up does not depend on the world size; rank r
takes every batch of number k with k % size == r. So each image is seen exactly once, nothing is
padded with repeated images, and the maps are the same at any world size.

Legend: B images of a batch, C classes, P pairs of (image, target class), S map cells along a
side, H x W pixels or feature cells.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from dist_oaa.attention.vectorised import attention_maps, sample_maps
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import Interrupted, UserError
from dist_oaa.config.model import OptimConfig
from dist_oaa.config.run import EvaluateConfig
from dist_oaa.config.views import ViewsConfig
from dist_oaa.data.loader import Batch, check_bad_images
from dist_oaa.data.sample import ImageSet
from dist_oaa.data.views import ViewLoader
from dist_oaa.models.classifier import OnlineCAMClassifier, valid_cells
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.files import sync_folder
from dist_oaa.runtime.progress import Reporter, one_pass
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.tally import ImageMaps, MapTally, Measurement, drawn_images, unit
from dist_oaa.stages.training import autocast
from dist_oaa.store.interchange import write_tables
from dist_oaa.store.mapfile import quantise, write_map

MOST_IMAGES = 16
"""Images of one forward pass: large views of a training step's batch might not fit in memory."""


@dataclass
class Attender:
    """Looks at every image of a set once, on all ranks together.

    Raises:
        UserError: when the saliency folder does not exist, or fp16 is asked for on a CPU.
    """

    world: World
    image_set: ImageSet
    data: DataConfig
    """Sizes of the images, what happens to a bad one, and loader processes."""
    views: ViewsConfig
    evaluate: EvaluateConfig
    """`thresholds` and `saliency_dir` of the measurement, `gallery` images to keep for pictures."""
    optim: OptimConfig
    """Batch (as far as one forward pass holds it), precision and memory order."""
    model: OnlineCAMClassifier
    activation: Literal["cam", "sigmoid"]
    """cam: Eq. 2 of each view; sigmoid: q = sigmoid(F), the integral model's attention."""
    kind: str
    """What the figures are called: KIND/recall and so on."""
    map_size: int = 41
    stop: StopFlag = field(default_factory=StopFlag)
    reporter: Reporter | None = None
    skipped: list[str] = field(default_factory=list, init=False)
    """Unreadable images, one sentence each, on every rank after `run`."""
    broken: int = field(default=0, init=False)
    """Pairs whose features were not finite in some view, over all ranks after `run`."""

    def __post_init__(self) -> None:
        if self.optim.precision == "fp16" and self.world.device.type == "cpu":
            raise UserError("precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
        self._tally = MapTally(self.evaluate, self.data.root, self.image_set)
        self._gallery = set(drawn_images(self.image_set, self.evaluate).tolist())
        self._rows: list[tuple] = []
        self._pictures: list[ImageMaps] = []

    def run(self, out: Path, conclude: Callable[[Measurement], None] | None = None) -> Measurement:
        """Writes and measures the maps; called by all ranks, once.

        The folder is laid out as by `oaa store export`: ID_INDEX.png (uint8, round(255 a)),
        pairs.csv (a skipped image's pairs have no file) and classes.txt. What is measured are the
        written, quantised values.

        Args:
            out: folder to make, on storage that all ranks share; it appears when it is complete.
            conclude: called on rank 0 just before that, for what shall be there as well.

        Raises:
            UserError: when `out` exists, an image, mask or saliency map cannot be used, or the
                disk fails; nothing of `out` is left.
            Interrupted: after a signal, likewise.
        """
        out = out.resolve()
        # A name without process id: what a killed attempt left behind is replaced.
        folder = out.with_name(f".{out.name}.tmp")
        self.world.only_first(lambda: _begin(out, folder))
        was_training = self.model.training
        try:
            self._look_at_all(folder)
            found = self._sum_up()
            rows = [row for part in self.world.gather(self._rows) for row in part]
            self.world.only_first(lambda: self._publish(folder, out, rows, found, conclude))
        except (UserError, Interrupted):
            # Raised by all ranks after the same step: none of them is still writing.
            if self.world.is_first:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self.model.train(was_training)
        return found

    def parts(self) -> list[np.ndarray]:
        """This rank's batches as indices into the image set; as many on every rank, some empty."""
        samples = self.image_set.samples
        order_N = np.array(sorted(range(len(samples)), key=lambda i: samples[i].id), np.int64)
        size = min(MOST_IMAGES, max(1, self.optim.batch_size // self.optim.accumulate))
        batches = [order_N[i : i + size] for i in range(0, len(order_N), size)]
        while len(batches) % self.world.size:
            batches.append(order_N[:0])
        return batches[self.world.rank :: self.world.size]

    def _look_at_all(self, folder: Path) -> None:
        device, parts = self.world.device, self.parts()
        self.model.to(device).eval()
        if self.optim.channels_last:
            self.model.to(memory_format=torch.channels_last)
        stride, pin = self.model.trunk.stride, device.type == "cuda"
        pulse = self.world.pulse
        loader = ViewLoader(self.image_set, self.data, self.views, stride, pin, pulse)
        reporter = self.reporter or Reporter(False, 1)
        done = 0
        with (
            one_pass(reporter, pulse, "taking attention from images", len(parts)) as tell,
            closing(loader),
        ):
            for step, views in enumerate(loader.load_views(parts), start=1):
                images = self._take(views, folder, done)
                done += images
                tell(step, images)

    def _take(self, views: list[Batch], folder: Path, done: int) -> int:
        """Writes and counts the maps of one batch; returns the images of all ranks' batches.

        A problem of any rank, or a signal, ends all of them here, not after hours at the end.
        """
        problem, broken = None, 0
        try:
            check_bad_images(views[0].bad, self.data.on_bad_image)
            if len(views[0]):
                broken = self._write(views, folder)
        except UserError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{error.filename or folder} cannot be written: {error.strerror or error}"
        request = [len(views[0]), broken, problem is not None, len(views[0].bad)]
        request = np.array([*request, bool(self.stop.reason)], dtype=np.int64)
        images, broken, problems, bad, stops = self.world.sum(request).tolist()
        if problems:
            self.world.raise_first(problem)
        if bad:
            self.skipped += [s for part in self.world.gather(views[0].bad) for s in part]
        self.broken += broken
        if stops:
            reason = next(r for r in self.world.gather(self.stop.reason) if r)
            raise Interrupted(
                f"stopped by {reason} after {done + images} of {len(self.image_set)} images; "
                "no maps were left behind, start it again"
            )
        return images

    def _write(self, views: list[Batch], folder: Path) -> int:
        """This rank's images; returns the pairs whose features were not finite."""
        image_P, class_P = (x.numpy() for x in views[0].labels_BC.nonzero(as_tuple=True))
        maps_PSS, finite_P = self.maps(views)
        for b, index in enumerate(views[0].index_B.tolist()):
            sample, mine = self.image_set.samples[index], image_P == b
            for class_index, map_SS in zip(class_P[mine].tolist(), maps_PSS[mine], strict=True):
                file = f"{sample.id}_{class_index}.png"
                write_map(folder / file, map_SS)
                self._rows.append((sample.id, class_index, file, 1, 0))
            self._tally.add(sample, unit(maps_PSS[mine]))
            if index in self._gallery:
                self._pictures.append(ImageMaps(sample, {self.kind: unit(maps_PSS[mine])}))
        return int((~finite_P).sum())

    @torch.no_grad()
    def maps(self, views: list[Batch]) -> tuple[np.ndarray, np.ndarray]:
        """The maps of a batch's pairs, in the order of `labels_BC.nonzero()`.

        The views meet in the frame of the whole image, cell by cell; their mean or maximum is
        divided by its own maximum (all zero where that is 0).

        Returns:
            uint8 (P, S, S), round(255 a), and bool (P,): all features were finite.
        """
        looked = [self._view(batch) for batch in views]
        values_VPSS = torch.stack([values for values, _ in looked])
        finite_P = torch.stack([finite for _, finite in looked]).all(dim=0)
        if self.views.combine == "max":
            combined_PSS = values_VPSS.amax(dim=0)
        else:
            combined_PSS = values_VPSS.mean(dim=0)
        peak_P11 = combined_PSS.amax(dim=(1, 2), keepdim=True)
        scaled_PSS = torch.where(peak_P11 > 0, combined_PSS / peak_P11, 0.0)
        return quantise(scaled_PSS.cpu().numpy()), finite_P.cpu().numpy()

    def _view(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention (P, S, S) of one view, float32; zero where features are not finite."""
        device = self.world.device
        extent_B2 = batch.extent_B2.to(device)
        images_B3HW = self.model.normalisation.apply(batch.images_B3HW.to(device), extent_B2)
        if self.optim.channels_last:
            images_B3HW = images_B3HW.contiguous(memory_format=torch.channels_last)
        with autocast(self.optim, device):
            cam_BCHW = self.model(images_B3HW, extent_B2).cam_BCHW
        cells_B2 = valid_cells(extent_B2, images_B3HW.shape[-2:], cam_BCHW.shape[-2:])
        image_P, class_P = (x.to(device) for x in batch.labels_BC.nonzero(as_tuple=True))
        cells_P2 = cells_B2[image_P]
        geometry_P23 = batch.geometry_B23.to(device)[image_P]
        cam_PHW = cam_BCHW[image_P, class_P]
        if self.activation == "cam":
            values_PSS, _, finite_P = attention_maps(cam_PHW, cells_P2, geometry_P23, self.map_size)
            return values_PSS, finite_P
        q_PHW = torch.sigmoid(cam_PHW.float())
        values_PSS, _ = sample_maps(q_PHW, cells_P2, geometry_P23, self.map_size)
        finite_P = torch.isfinite(values_PSS).all(dim=2).all(dim=1)
        return torch.where(finite_P[:, None, None], values_PSS, 0.0), finite_P

    def _sum_up(self) -> Measurement:
        self._tally.sum(self.world)
        pictures = [image for part in self.world.gather(self._pictures) for image in part]
        metrics = self._tally.figures(self.kind)
        per_class = {self.kind: self._tally.per_class} if metrics else {}
        return Measurement(metrics, per_class, sorted(pictures, key=lambda i: i.sample.id))

    def _publish(
        self,
        folder: Path,
        out: Path,
        rows: list[tuple],
        found: Measurement,
        conclude: Callable[[Measurement], None] | None,
    ) -> None:
        written = {(name, class_index) for name, class_index, *_ in rows}
        rows += [(name, c, "", 0, 0) for name, c in self._pairs() if (name, c) not in written]
        write_tables(folder, sorted(rows), self.image_set.class_names)
        if conclude is not None:
            conclude(found)
        os.replace(folder, out)
        sync_folder(out.parent)

    def _pairs(self) -> Iterator[tuple[str, int]]:
        return ((sample.id, c) for sample in self.image_set.samples for c in sample.classes)


def check_new(out: Path) -> None:
    """Refuses to overwrite finished maps.

    Raises:
        UserError: when `out` exists and is no empty folder.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(
            f"{out} exists, and finished maps are never overwritten: choose another folder or "
            "remove this one"
        )


def _begin(out: Path, folder: Path) -> None:
    check_new(out)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
