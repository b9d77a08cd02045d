"""Several views of one image: other sizes and mirror images, decoded once.

Legend: B images of the batch; HW3 pixels; 23 geometry.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch.utils.data import Dataset

from dist_oaa.config.data import DataConfig
from dist_oaa.config.views import ViewsConfig
from dist_oaa.data.augment import resize, resized_shape
from dist_oaa.data.geometry import HORIZONTAL_FLIP_23, IDENTITY_23
from dist_oaa.data.images import BadImageError, read_image
from dist_oaa.data.loader import MEASURE, Batch, BatchLoader, Collate
from dist_oaa.data.sample import ImageSet
from dist_oaa.runtime.watching.pulse import Pulse

View = tuple[np.ndarray, np.ndarray]
"""Input image (uint8 RGB, h x w x 3) and its geometry (float32, 2 x 3)."""


def views_of(
    image_HW3: np.ndarray, config: DataConfig, views: ViewsConfig, multiple: int
) -> list[View]:
    """The views of an image, scale by scale, each followed by its mirror image.

    Args:
        image_HW3: uint8 RGB.
        multiple: the trunk's stride in pixels; the sides of every view are multiples of it.
    """
    found = []
    for scale in views.scales:
        shape = resized_shape(*image_HW3.shape[:2], config, multiple, scale)
        resized_HW3 = resize(image_HW3, *shape)
        found.append((resized_HW3, IDENTITY_23.astype(np.float32)))
        if views.flip:
            mirrored_HW3 = np.ascontiguousarray(resized_HW3[:, ::-1])
            found.append((mirrored_HW3, HORIZONTAL_FLIP_23.astype(np.float32)))
    return found


@dataclass(frozen=True)
class ViewedImages(Dataset):
    """Reads an image and makes its views, for items (index, epoch); the epoch plays no role."""

    image_set: ImageSet
    config: DataConfig
    look: Callable[[np.ndarray], list[View]]
    """The views of an image; travels to worker processes."""

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, list[View]] | str:
        try:
            image_HW3 = read_image(self.image_set.samples[item[0]].path, self.config.pixel_limit)
        except BadImageError as error:
            # An exception would lose its kind on the way out of a worker process.
            return str(error)
        return item[0], self.look(image_HW3)


@dataclass(frozen=True)
class CollateViews:
    """One Batch for each view, of the same images in the same order."""

    collate: Collate
    count: int

    def __call__(self, items: Sequence[tuple[int, list[View]] | str]) -> list[Batch]:
        return [
            self.collate([i if isinstance(i, str) else (i[0], *i[1][view]) for i in items])
            for view in range(self.count)
        ]


class ViewLoader(BatchLoader):
    """Loads lists of batches with all their views.

    Args:
        multiple: the trunk's stride; input sizes are multiples of it.
        pin: pin host memory for asynchronous copies to a GPU.
        pulse: as of BatchLoader.
    """

    def __init__(
        self,
        image_set: ImageSet,
        config: DataConfig,
        views: ViewsConfig,
        multiple: int,
        pin: bool = False,
        pulse: Pulse | None = None,
    ) -> None:
        look = partial(views_of, config=config, views=views, multiple=multiple)
        images = ViewedImages(image_set, config, look)
        collate = CollateViews(Collate(image_set), views.count)
        super().__init__(image_set, config, multiple, 0, pin, images, collate, pulse)

    def load_views(self, batches: Sequence[np.ndarray]) -> Iterator[list[Batch]]:
        """Yields, for each array of image indices, one Batch for each view."""
        yield from self.load(batches, MEASURE)
