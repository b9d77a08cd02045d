"""The attention drop layer within `oaa classify`: the coin, the filling and the figures.

Legend: B images, H x W pixels or feature cells of the padded input.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Pairs
from dist_oaa.attention.drop import occlusion
from dist_oaa.config.drop import DropConfig
from dist_oaa.data.augment import stateless_rng
from dist_oaa.data.loader import Batch
from dist_oaa.models.classifier import OnlineCAMClassifier, valid_cells

MOST_EXAMPLES = 6
GREY = np.uint8(128)


@dataclass
class Dropped:
    """A batch after the drop layer."""

    images_B3HW: torch.Tensor
    """Normalised images, occluded where `drop.where` is input."""
    features_BHW: torch.Tensor | None = None
    """Cells of the trunk's feature map to occlude, where `drop.where` is feature."""
    counts: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Images with an occluded place, and the sum over images of the share of occluded places."""


class DropLayer:
    """Occludes what the image's classes attended to last.

    Args:
        seed: the coin of an image is a function of (seed, epoch, image name) alone.
        keeps_examples: keep a few occluded images of each epoch to be looked at.
    """

    counters = ("occluded_images", "occluded_share")

    def __init__(self, config: DropConfig, seed: int, keeps_examples: bool) -> None:
        self.config, self.seed, self.keeps_examples = config, seed, keeps_examples
        self.examples: list[tuple[str, np.ndarray]] = []
        """Image names with their occluded RGB images (H, W, 3) uint8, of the present epoch."""

    def chosen(self, ids: list[str], epoch: int) -> torch.Tensor:
        """Which images the coin falls for, bool (B,)."""
        coins = [stateless_rng(self.seed, epoch, name, "drop").random() for name in ids]
        return torch.tensor(coins, dtype=torch.float64) < self.config.beta

    def __call__(
        self,
        batch: Batch,
        epoch: int,
        images_B3HW: torch.Tensor,
        extent_B2: torch.Tensor,
        pairs: Pairs,
        bank: MapBank,
        model: OnlineCAMClassifier,
    ) -> Dropped:
        """Applies the layer to a batch; tensors on the device of the bank."""
        if not self.config.active:
            return Dropped(images_B3HW)
        chosen_B = self.chosen(batch.ids, epoch)
        if not chosen_B.any():
            return Dropped(images_B3HW)
        device = images_B3HW.device
        shape = pixels = (images_B3HW.shape[2], images_B3HW.shape[3])
        valid_B2 = extent_B2
        if self.config.where == "feature":
            stride = model.trunk.stride
            shape = (-(-pixels[0] // stride), -(-pixels[1] // stride))
            valid_B2 = valid_cells(extent_B2, pixels, shape)
        mask_BHW = occlusion(
            bank,
            pairs,
            chosen_B.to(device, non_blocking=True),
            batch.geometry_B23.to(device, non_blocking=True),
            valid_B2,
            shape,
            self.config.delta,
        )
        share_B = mask_BHW.sum(dim=(1, 2)) / valid_B2.prod(dim=1)
        counts = [float((share_B > 0).sum()), float(share_B.double().sum())]
        if self.keeps_examples:
            self._keep(batch, mask_BHW, share_B)
        if self.config.where == "feature":
            return Dropped(images_B3HW, mask_BHW, counts)
        return Dropped(self._filled(images_B3HW, mask_BHW, model), None, counts)

    def _filled(
        self, images_B3HW: torch.Tensor, mask_BHW: torch.Tensor, model: OnlineCAMClassifier
    ) -> torch.Tensor:
        if self.config.fill == "mean":  # what normalisation makes of the mean colour
            return images_B3HW.masked_fill(mask_BHW[:, None], 0.0)
        colour = model.normalisation.colour(1.0 if self.config.fill == "white" else 0.0)
        colour_13 = torch.tensor([colour], device=images_B3HW.device)
        return torch.where(mask_BHW[:, None], colour_13[:, :, None, None], images_B3HW)

    def _keep(self, batch: Batch, mask_BHW: torch.Tensor, share_B: torch.Tensor) -> None:
        for b in share_B.nonzero()[:, 0].tolist()[: MOST_EXAMPLES - len(self.examples)]:
            height, width = batch.extent_B2[b].tolist()
            image_HW3 = batch.images_B3HW[b, :, :height, :width].permute(1, 2, 0).numpy().copy()
            # Feature cells are drawn as the pixels that they stand for.
            scale = batch.images_B3HW.shape[2] // mask_BHW.shape[1]
            mask_HW = mask_BHW[b].cpu().numpy().repeat(scale, 0).repeat(scale, 1)
            image_HW3[mask_HW[:height, :width]] = GREY
            self.examples.append((batch.ids[b], image_HW3))

    def figures(self, totals: dict[str, float]) -> dict[str, float]:
        """Shares of an epoch: images with an occluded place, and occluded places."""
        if not self.config.active:
            return {}
        images = max(1, totals["images"])
        return {
            "drop/images": totals["occluded_images"] / images,
            "drop/pixels": totals["occluded_share"] / images,
        }
