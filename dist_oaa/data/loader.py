"""Batches of prepared images, loaded by worker processes.

Legend: B images of the batch; 3HW padded input in pixels; C classes; 23 geometry;
2 (height, width).
"""

import atexit
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.augment import prepare, stateless_rng
from dist_oaa.data.images import BadImageError, read_image
from dist_oaa.data.sample import ImageSet
from dist_oaa.data.workers import Workers, start_worker
from dist_oaa.runtime.watching.pulse import LOADING, Pulse

MEASURE = -1  # the "epoch" of images that are loaded without augmentation


@dataclass
class Batch:
    """Prepared images, padded at the right and bottom to a common size."""

    ids: list[str]
    """Image names."""
    index_B: torch.Tensor
    """int64: positions in the image set."""
    images_B3HW: torch.Tensor
    """uint8 RGB."""
    labels_BC: torch.Tensor
    """uint8: 1 for the target classes."""
    geometry_B23: torch.Tensor
    """float32: whole image to valid input, both normalised."""
    extent_B2: torch.Tensor
    """int64: valid height and width in pixels."""
    bad: list[str]
    """One sentence for each image that could not be read."""

    def __len__(self) -> int:
        return len(self.ids)

    def split(self, parts: int) -> list["Batch"]:
        """Consecutive micro-batches, `parts` at most; bad images are reported by the first."""
        size = -(-len(self) // parts) if len(self) else 1
        cuts = [slice(i, i + size) for i in range(0, len(self), size)] or [slice(0, 0)]
        pieces = [
            replace(
                self,
                ids=self.ids[cut],
                bad=[],
                **{
                    name: getattr(self, name)[cut]
                    for name in (
                        "index_B",
                        "images_B3HW",
                        "labels_BC",
                        "geometry_B23",
                        "extent_B2",
                    )
                },
            )
            for cut in cuts
        ]
        pieces[0].bad = self.bad
        return pieces


class PreparedImages(Dataset):
    """Reads, resizes and augments image `index` as of `epoch`, for items (index, epoch)."""

    def __init__(self, image_set: ImageSet, config: DataConfig, multiple: int, seed: int) -> None:
        self.image_set, self.config, self.multiple, self.seed = image_set, config, multiple, seed

    def __getitem__(self, item: tuple[int, int]) -> tuple | str:
        index, epoch = item
        sample = self.image_set.samples[index]
        try:
            image_HW3 = read_image(sample.path, self.config.pixel_limit)
        except BadImageError as error:
            # An exception would lose its kind on the way out of a worker process.
            return str(error)
        rng = None
        if epoch != MEASURE:
            rng = stateless_rng(self.seed, epoch, sample.id, "augment")
        return index, *prepare(image_HW3, self.config, self.multiple, rng)


@dataclass(frozen=True)
class Collate:
    """Stacks items into a Batch; the model's normalisation blanks the padding by the extents."""

    image_set: ImageSet

    def __call__(self, items: Sequence[tuple | str]) -> Batch:
        good = [item for item in items if not isinstance(item, str)]
        size = [max((item[1].shape[axis] for item in good), default=0) for axis in (0, 1)]
        images = np.zeros((len(good), *size, 3), dtype=np.uint8)
        for slot, (_, image_HW3, _) in zip(images, good, strict=True):
            slot[: image_HW3.shape[0], : image_HW3.shape[1]] = image_HW3
        index = np.array([item[0] for item in good], dtype=np.int64)
        geometry = [item[2] for item in good] or np.empty((0, 2, 3), np.float32)
        extent = [item[1].shape[:2] for item in good] or np.empty((0, 2), np.int64)
        return Batch(
            ids=[self.image_set.samples[i].id for i in index],
            index_B=torch.from_numpy(index),
            images_B3HW=torch.from_numpy(images).permute(0, 3, 1, 2),
            labels_BC=torch.from_numpy(self.image_set.labels_NC[index]),
            geometry_B23=torch.from_numpy(np.asarray(geometry, dtype=np.float32)),
            extent_B2=torch.from_numpy(np.asarray(extent, dtype=np.int64)),
            bad=[item for item in items if isinstance(item, str)],
        )


class BatchLoader:
    """Loads any list of batches, in training or measuring mode, with one set of workers.

    Args:
        multiple: the trunk's stride; input sizes are multiples of it.
        pin: pin host memory for asynchronous copies to a GPU.
        images, collate: how an item (index, epoch) becomes a prepared image, and items a batch;
            by default PreparedImages and Collate.
        pulse: learns when images are waited for, and from which worker.
    """

    def __init__(
        self,
        image_set: ImageSet,
        config: DataConfig,
        multiple: int,
        seed: int,
        pin: bool = False,
        images: Dataset | None = None,
        collate: Callable[[Sequence], Any] | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        self.pulse = pulse or Pulse()
        self._plan = _Plan()
        self._workers, self._place = Workers(), ""
        workers = config.workers
        self._loader = DataLoader(
            images or PreparedImages(image_set, config, multiple, seed),
            batch_sampler=self._plan,
            collate_fn=collate or Collate(image_set),
            num_workers=workers,
            worker_init_fn=start_worker,
            # spawn: a forked child would inherit open LMDB environments and CUDA contexts.
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pin,
        )
        if workers:
            atexit.register(_close, weakref.ref(self))

    def load(self, batches: Sequence[np.ndarray], epoch: int) -> Iterator[Batch]:
        """Yields one Batch for each array of image indices, empty ones included.

        Args:
            epoch: epoch whose augmentation applies, or MEASURE for none.

        Raises:
            RunError: when a worker process has died.
        """
        self._plan.batches = [[(int(i), epoch) for i in batch] for batch in batches]
        self._place = f"batch 1 of {len(batches)}"
        self.pulse.hint = self._hint
        try:
            with self.pulse.doing(LOADING), self._workers.alive(self.pulse.name):
                iterator = self._workers.started(self._loader)
            for number in range(1, len(batches) + 1):
                self._place = f"batch {number} of {len(batches)}"
                with self.pulse.doing(LOADING), self._workers.alive(self.pulse.name):
                    batch = next(iterator)
                yield batch
        finally:
            self.pulse.hint = str

    def _hint(self) -> str:
        loading = self.pulse.activities[-1:] == [LOADING]
        return ", ".join(filter(None, [self._place, loading and self._workers.awaited()]))

    def close(self) -> None:
        """Ends the worker processes; a program that forgets to is not held up at its exit."""
        self._workers.end()
        self._loader._iterator = None


class _Plan:
    """A batch sampler whose batches the loader replaces for each epoch."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _close(reference: weakref.ref) -> None:
    # The interpreter's exit would send the workers SIGTERM, which they ignore, and wait for ever.
    loader = reference()
    if loader is not None:
        loader.close()


def check_bad_images(bad: Sequence[str], policy: str) -> None:
    """Applies `data.on_bad_image` to the unreadable images of a batch.

    Raises:
        UserError: under the policy "stop".
    """
    if bad and policy == "stop":
        raise UserError(f"{bad[0]}; set data.on_bad_image to skip to go on without such images")
