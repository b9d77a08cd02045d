"""Settings of the attention drop layer (OAA++)."""

from dataclasses import dataclass
from typing import Literal


@dataclass(kw_only=True)
class DropConfig:
    """Hides what an image's classes attended to last, so that other parts must be found."""

    where: Literal["none", "input", "feature"] = "none"
    """What is occluded: nothing, the input (OAA-drop, the papers' OAA++), or the last feature map
    of the trunk (OAA-drop-feat)."""
    delta: float = 0.6
    """Attention above which a place is occluded, 0 to 1."""
    beta: float = 0.5
    """Probability that an image is occluded in an epoch, 0 to 1."""
    fill: Literal["mean", "black", "white"] = "mean"
    """What occluded pixels become: the mean colour of the normalisation, or an extreme; features
    become 0."""

    def __post_init__(self) -> None:
        for name in ("delta", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"drop.{name} is {getattr(self, name)}, expected 0 to 1")

    @property
    def active(self) -> bool:
        """Whether anything can be occluded at all."""
        return self.where != "none" and self.beta > 0
