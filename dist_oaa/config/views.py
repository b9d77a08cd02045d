"""Settings of how a trained network looks at an image: sizes, flips, and how they combine."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(kw_only=True)
class ViewsConfig:
    """The views of an image from which one attention map is made."""

    scales: list[float] = field(default_factory=lambda: [1.0])
    """Factors on `data.size`, one view each."""
    flip: bool = False
    """Look at each scale's mirror image too."""
    combine: Literal["mean", "max"] = "mean"
    """The mean or the largest value over the views, cell by cell in the frame of the image."""

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 16 for scale in self.scales):
            raise ValueError(
                f"views.scales is {self.scales}, expected at least one factor above 0, "
                "and none above 16"
            )

    @property
    def count(self) -> int:
        """Number of views of an image."""
        return len(self.scales) * (2 if self.flip else 1)

    def phrase(self) -> str:
        """One phrase for reports, such as `scales 0.75 1, flipped too, mean`."""
        scales = " ".join(f"{scale:g}" for scale in self.scales)
        flipped = ", flipped too" if self.flip else ""
        combined = f", {self.combine}" if self.count > 1 else ""
        return f"{'scales' if len(self.scales) > 1 else 'scale'} {scales}{flipped}{combined}"
