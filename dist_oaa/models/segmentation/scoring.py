"""What a trained network says of one image of any size: scales, mirror images, tiles.

Shape legend: L label channels (background first), H x W pixels of the image, h x w pixels of a
view of it, N images of one forward pass.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dist_oaa.models.segmentation.network import SegmentationNetwork
from dist_oaa.models.segmentation.tiles import tile_starts, tile_weight_HW

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Scorer:
    """Probabilities of every pixel, averaged over views.

    The network is used in evaluation mode, and left in the mode in which it was found.

    Args:
        network: moved to the device.
        device: where it runs; the results are there too.
        scales: factors on the image's size (or on `size`), one view each.
        flip: look at each view's mirror image too.
        tile: longest side of what the network sees at once, in pixels of the view; a larger view
            is looked at in tiles. 0 never tiles.
        overlap: pixels that neighbouring tiles share at least; there one fades into the other.
        precision: fp32, bf16 or fp16 arithmetic of the network; the rest is float32.
        size: short side in pixels that scale 1 stands for; 0 is the image's own.

    Raises:
        ValueError: no scales, scales of 0 or less, or an overlap that does not fit the tile.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        device: torch.device | str = "cpu",
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        tile: int = 0,
        overlap: int = 128,
        precision: str = "fp32",
        size: int = 0,
    ) -> None:
        stride = network.stride
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales is {list(scales)}, expected at least one factor above 0")
        # Whole cells, so that the cells of a tile and of the whole view coincide.
        self.tile = max(tile // stride, 1) * stride if tile else 0
        if tile and not 0 <= overlap <= self.tile - stride:
            raise ValueError(
                f"overlap is {overlap} pixels, expected 0 to {self.tile - stride} for tiles of "
                f"{tile} pixels with a network of stride {stride}"
            )
        self.device = torch.device(device)
        self.network = network.to(self.device)
        self.scales = tuple(scales)
        self.flip = flip
        self.overlap = overlap
        self.precision = precision
        self.size = size

    @torch.no_grad()
    def probabilities(self, image_HW3: np.ndarray) -> Tensor:
        """The mean over the views of the softmax.

        Args:
            image_HW3: uint8 RGB, of any size from one pixel.

        Returns:
            (L, H, W) float32 on the device, 0 to 1, summing to 1 at each pixel.
        """
        assert image_HW3.dtype == np.uint8, image_HW3.dtype
        was_training = self.network.training
        self.network.eval()
        try:
            # The copy also takes what torch does not: mirrored arrays and read-only ones.
            pixels = torch.from_numpy(np.array(image_HW3)).to(self.device)
            image_13HW = pixels.permute(2, 0, 1)[None].float()
            views = (self._view(image_13HW, scale) for scale in self.scales)
            mean_LHW = next(views)
            for view_LHW in views:
                mean_LHW += view_LHW
            return mean_LHW.div_(len(self.scales))
        finally:
            self.network.train(was_training)

    def _view(self, image_13HW: Tensor, scale: float) -> Tensor:
        """(L, H, W) probabilities of one scale, at the size of the image."""
        size = (image_13HW.shape[-2], image_13HW.shape[-1])
        view_13hw = resized(image_13HW, view_size(size, scale, self.size))
        view_13hw = self.network.normalisation.apply(view_13hw)
        scores_1Lhw = self._probabilities(view_13hw)
        if self.flip:
            # The view is mirrored and not its padding, which stays at the right and the bottom.
            scores_1Lhw += self._probabilities(view_13hw.flip(-1)).flip(-1)
            scores_1Lhw /= 2
        if scores_1Lhw.shape[-2:] != size:
            # Without antialiasing: this also enlarges, and a mean of probabilities stays one.
            scores_1Lhw = F.interpolate(scores_1Lhw, size=size, mode="bilinear")
        return scores_1Lhw[0]

    def _probabilities(self, view_13hw: Tensor) -> Tensor:
        """(1, L, h, w) probabilities of a normalised view, whole or in tiles."""
        height, width = view_13hw.shape[-2:]
        stride = self.network.stride
        # 0 is the mean colour.
        padded = F.pad(view_13hw, (0, -width % stride, 0, -height % stride))
        if not self.tile or max(padded.shape[-2:]) <= self.tile:
            return self._forward(padded)[..., :height, :width].contiguous()
        return self._tiled(padded)[..., :height, :width].contiguous()

    def _tiled(self, padded_13hw: Tensor) -> Tensor:
        """(1, L, h, w) weighted mean of the probabilities of overlapping tiles."""
        height, width = padded_13hw.shape[-2:]
        stride = self.network.stride
        rows, columns = min(height, self.tile), min(width, self.tile)
        weight_hw = tile_weight_HW(rows, columns, self.overlap).to(self.device)
        labels = self.network.num_classes + 1
        sum_1Lhw = torch.zeros(1, labels, height, width, device=self.device)
        total_hw = torch.zeros(height, width, device=self.device)
        for top in tile_starts(height, self.tile, self.overlap, stride):
            for left in tile_starts(width, self.tile, self.overlap, stride):
                part = (..., slice(top, top + rows), slice(left, left + columns))
                sum_1Lhw[part] += self._forward(padded_13hw[part]) * weight_hw
                total_hw[part] += weight_hw
        return sum_1Lhw.div_(total_hw)

    def _forward(self, images_N3hw: Tensor) -> Tensor:
        """(N, L, h, w) float32 probabilities at the size of the input."""
        dtype = AUTOCAST.get(self.precision)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            logits = self.network(images_N3hw)
        size = images_N3hw.shape[-2:]
        return F.interpolate(logits.float(), size=size, mode="bilinear").softmax(dim=1)


def view_size(size: tuple[int, int], scale: float, short_side: int) -> tuple[int, int]:
    """Height and width of a view in pixels, at least 1 each."""
    factor = scale * (short_side / min(size) if short_side else 1.0)
    return tuple(max(1, math.floor(side * factor + 0.5)) for side in size)


def resized(image_13HW: Tensor, size: tuple[int, int]) -> Tensor:
    """The image at another size, antialiased where that is smaller; values stay 0 to 255."""
    if image_13HW.shape[-2:] == size:
        return image_13HW
    return F.interpolate(image_13HW, size=size, mode="bilinear", antialias=True)
