"""Whether an exported network computes what the original does.

Shapes: B images, 3 colours, H x W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_oaa.stages.exporting.deployed import smallest_side

SEED = 0
ODD = ((97, 131), (64, 64), (33, 158), (225, 321))
"""Heights and widths by which a network of any size is tried: odd, square, thin, usual."""


@dataclass(frozen=True)
class Parity:
    """The difference at one shape of input."""

    batch: int
    height: int
    width: int
    difference: float
    """Of probabilities the largest, of logits that as a share of the largest logit, of labels the
    share of the pixels that differ."""

    @property
    def size_text(self) -> str:
        """Height and width for a table."""
        return f"{self.height} x {self.width}"

    @property
    def shape_text(self) -> str:
        """The shape for a sentence."""
        return f"{self.batch} image{'s' * (self.batch != 1)} of {self.size_text} pixels"


def sizes_to_try(size: tuple[int, int] | None, stride: int) -> list[tuple[int, int, int]]:
    """(batch, height, width) to try: other batches and sizes than it was traced with."""
    if size is not None:
        return [(batch, *size) for batch in (1, 3)]
    least = smallest_side(stride)
    # Whole cells, too: there nothing is padded.
    sizes = [*ODD, (least, 8 * stride)]
    return [
        (1 + index % 3, max(height, least), max(width, least))
        for index, (height, width) in enumerate(sizes)
    ]


def compare(
    network: nn.Module,
    exported: Callable[[Tensor], Tensor],
    sizes: Sequence[tuple[int, int, int]],
) -> list[Parity]:
    """Runs both on the same random images of each shape."""
    generator = torch.Generator().manual_seed(SEED)
    found = []
    for batch, height, width in sizes:
        image_B3HW = random_images(batch, height, width, generator)
        with torch.no_grad():
            ours, theirs = network(image_B3HW), exported(image_B3HW)
        found.append(Parity(batch, height, width, difference(ours, theirs)))
    return found


def random_images(batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """uint8 (B, 3, H, W): patches of colour under noise, so that edges and areas both occur."""
    patches = torch.rand(batch, 3, 5, 7, generator=generator)
    patches_B3HW = F.interpolate(patches, size=(height, width), mode="nearest")
    noise_B3HW = torch.rand(batch, 3, height, width, generator=generator)
    return (255 * (0.8 * patches_B3HW + 0.2 * noise_B3HW)).round().to(torch.uint8)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """See `Parity.difference`; infinite for another shape or type."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return float("inf")
    if not ours.is_floating_point():
        return float((ours != theirs).float().mean())
    scale = max(1.0, float(ours.abs().max()))
    return float((ours - theirs).abs().max()) / scale
