"""Maps as the targets that a network learns, cell by cell.

They are those of an earlier run (TargetMaps), or those that accumulate in the same one
(resident_targets). Either way the maps of the images that a rank visits are resident on its
device. They live in the frame of the whole image and are sampled at the feature cells of a batch
through each image's geometry, so that the target of a flipped input is the flipped target.

A class that the image does not have is 0 everywhere: its label says so. A target class without a
map, or with one that is zero everywhere, is known to be there but not where: it is left out.

Legend: N images of the data set, R rows, one a pair (image, target class) of this rank, P pairs
and B images of a batch, C classes, S map cells along a side, HW feature cells.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Pairs
from dist_oaa.attention.places import places, sampled, valid_places


@dataclass
class Targets:
    """What a batch is trained on."""

    value_BCHW: torch.Tensor
    """float32, 0 to 1."""
    counted_BCHW: torch.Tensor
    """bool: neither padding, nor outside the whole image, nor of a class that is left out."""


class TargetMaps:
    """The targets of one rank, each map divided by its own maximum.

    Args:
        classes: the target classes of each image of the data set, ascending.
        mine_N: bool: the images that this rank visits.
        map_size: S.
        dtype: number format of the maps, in which they stay resident.
    """

    def __init__(
        self,
        classes: Sequence[Sequence[int]],
        mine_N: np.ndarray,
        map_size: int,
        dtype: torch.dtype = torch.uint8,
        device: torch.device | str = "cpu",
    ) -> None:
        self._classes = classes
        counts_N = np.where(mine_N, [len(c) for c in classes], 0).astype(np.int64)
        self._first_N = np.where(mine_N, counts_N.cumsum() - counts_N, -1)
        rows = int(counts_N.sum())
        self.maps_RSS = torch.zeros(rows, map_size, map_size, dtype=dtype, device=device)
        self.scale_R = torch.zeros(rows, device=device)
        """float32: what makes a map's maximum 1; 0 where nothing is known."""

    def load(self, records: Iterable[tuple[int, int, np.ndarray]]) -> None:
        """Takes maps in: (image, class, map), each pair at most once, in any order.

        A map is S x S, uint8 (255 is 1) or float in [0, 1]; one of an image of another rank is
        passed over.
        """
        host_RSS = torch.zeros(self.maps_RSS.shape, dtype=self.maps_RSS.dtype)
        for image, class_index, map_SS in records:
            if self._first_N[image] >= 0:
                row = self._first_N[image] + self._classes[image].index(class_index)
                host_RSS.numpy()[row] = map_SS
        self.maps_RSS.copy_(host_RSS)
        self.scale_R.copy_(own_scale(host_RSS))

    @property
    def unknown(self) -> int:
        """Target classes of this rank's images that are left out."""
        return int((self.scale_R == 0).sum())

    @torch.no_grad()
    def at(
        self,
        index_B: torch.Tensor,
        labels_BC: torch.Tensor,
        geometry_B23: torch.Tensor,
        cells_B2: torch.Tensor,
        shape: tuple[int, int],
    ) -> Targets:
        """The targets of a batch at its feature cells.

        Args:
            index_B: positions in the data set, of images of this rank; a host tensor.
            labels_BC: 1 for the target classes; a host tensor.
            geometry_B23: float32: whole image -> valid input, both normalised, on the device.
            cells_B2: int64 valid rows and columns of the feature map, on the device.
            shape: H, W.
        """
        first_B = self._first_N[index_B.numpy()]
        assert (first_B >= 0).all(), "an image of another rank"
        pairs = Pairs.from_labels(labels_BC, torch.from_numpy(first_B)).to(self.maps_RSS.device)
        maps_PSS, scale_P = self.maps_RSS[pairs.row_P], self.scale_R[pairs.row_P]
        classes = labels_BC.shape[1]
        return _at_cells(maps_PSS, scale_P, pairs, classes, geometry_B23, cells_B2, shape)


@torch.no_grad()
def resident_targets(
    bank: MapBank,
    pairs: Pairs,
    classes: int,
    geometry_B23: torch.Tensor,
    cells_B2: torch.Tensor,
    shape: tuple[int, int],
) -> Targets:
    """Cumulative maps as they stand, at the feature cells of a batch.

    Args:
        pairs: those of the batch with their rows in the bank, on its device.
        classes: C.
        geometry_B23, cells_B2, shape: as in `TargetMaps.at`.
    """
    maps_PSS = bank.maps_RSS[pairs.row_P]
    return _at_cells(maps_PSS, own_scale(maps_PSS), pairs, classes, geometry_B23, cells_B2, shape)


def own_scale(maps_NSS: torch.Tensor) -> torch.Tensor:
    """Float32 (N,): what makes each map's maximum 1; 0 where the map is zero everywhere."""
    if not len(maps_NSS):
        return torch.zeros(0, device=maps_NSS.device)
    peak_N = maps_NSS.flatten(1).amax(dim=1).float()
    scale_N = 1 / peak_N
    return torch.where((peak_N > 0) & torch.isfinite(scale_N), scale_N, 0.0)


def _at_cells(
    maps_PSS: torch.Tensor,
    scale_P: torch.Tensor,
    pairs: Pairs,
    classes: int,
    geometry_B23: torch.Tensor,
    cells_B2: torch.Tensor,
    shape: tuple[int, int],
) -> Targets:
    device = maps_PSS.device
    uv_BHW2 = places(geometry_B23, cells_B2, shape)
    inside_BHW = ((uv_BHW2 >= 0) & (uv_BHW2 <= 1)).all(dim=3)
    value_PHW = sampled(maps_PSS, uv_BHW2[pairs.image_P])
    value_PHW = (value_PHW * scale_P[:, None, None]).clamp(0, 1)
    value_BCHW = torch.zeros(len(cells_B2), classes, *shape, device=device)
    value_BCHW[pairs.image_P, pairs.class_P] = value_PHW
    known_BC = torch.ones(len(cells_B2), classes, dtype=torch.bool, device=device)
    known_BC[pairs.image_P, pairs.class_P] = scale_P > 0
    seen_BHW = valid_places(cells_B2, shape) & inside_BHW
    return Targets(value_BCHW, seen_BHW[:, None] & known_BC[:, :, None, None])
