"""Settings of the pseudo labels."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class RecipeConfig:
    """The public OAA recipe that turns attention and saliency into a pseudo label."""

    attention_floor: float = 0.3
    """Class scores below this become 0, as a share of the map's own range, 0 to 1."""
    conflict: float = 0.9
    """A pixel where more than one channel, the background included, has a score above this is
    ignored; a score, 0 to 1."""
    uncertain_saliency: float = 32 / 255
    """A background pixel at least this salient is ignored; 0 to 1 (the recipe's 32 of 255)."""
    uncertain_attention: float = 0.8
    """A background pixel with a class score above this is ignored; a score, 0 to 1."""
    min_foreground: float = 0.01
    """An image with a smaller share of its pixels labelled as objects is ignored whole, 0 to 1."""

    def __post_init__(self) -> None:
        for name in (
            "attention_floor",
            "conflict",
            "uncertain_saliency",
            "uncertain_attention",
            "min_foreground",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"labels.{name} is {getattr(self, name)}, expected 0 to 1")
