"""Settings of the pseudo labels: saliency, background, refinement, and the recipe."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

REFINEMENTS = ("crf", "pamr", "random_walk")
"""What `labels.refine` may name."""


@dataclass(kw_only=True)
class RecipeConfig:
    """The public OAA recipe that turns attention and saliency into a pseudo label."""

    attention_floor: float = 0.3
    """With saliency, class scores below this become 0, as a share of the map's own range, 0 to 1;
    without saliency the background's threshold takes its place."""
    conflict: float = 0.9
    """A pixel where more than one channel has a score above this is ignored; the background counts
    where there is saliency; a score, 0 to 1."""
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
            _check(f"labels.recipe.{name}", getattr(self, name), 0, 1)


@dataclass(kw_only=True)
class BackgroundConfig:
    """Where the background ends when there is no saliency: a threshold on attention."""

    method: Literal["fixed", "sweep"] = "sweep"
    """fixed takes `threshold`; sweep chooses one for the whole set by looking at the images and
    the maps alone, never at masks."""
    threshold: float = 0.3
    """A pixel is background where no class score exceeds this; a share of the map's own range, 0
    to 1. Only read with method fixed."""
    objective: Literal["colour", "edges", "otsu"] = "colour"
    """What the sweep makes largest: colour (how far the objects' and the background's mean colours
    lie apart), edges (how strong the image's edges are along the outline) or otsu (how well the
    attention values fall into two groups)."""
    thresholds: int = 50
    """Thresholds that the sweep tries, a count, evenly spaced between 0 and 1."""
    margin: float = 0.1
    """A background pixel whose largest class score exceeds the threshold less this is ignored, 0
    to 1."""

    def __post_init__(self) -> None:
        _check("labels.background.threshold", self.threshold, 0, 1)
        _check("labels.background.margin", self.margin, 0, 1)
        _check("labels.background.thresholds", self.thresholds, 2, 256)


@dataclass(kw_only=True)
class CrfConfig:
    """The fully connected CRF of Kraehenbuehl and Koltun (2011), DeepLab's numbers."""

    iterations: int = 10
    """Steps of mean-field inference, a count."""
    bilateral_xy: float = 67.0
    """Reach of the kernel that looks at colours, a standard deviation in pixels."""
    bilateral_rgb: float = 3.0
    """How alike colours must be for it, a standard deviation in grey levels of 255."""
    bilateral_compat: float = 4.0
    """Its weight, 0 or more."""
    gaussian_xy: float = 1.0
    """Reach of the kernel that only smooths, a standard deviation in pixels."""
    gaussian_compat: float = 3.0
    """Its weight, 0 or more."""
    softness: float = 0.0
    """How much the given probabilities are mixed with equal ones before their logarithm is taken,
    0 (believed as they are) to 1 (not believed at all)."""

    def __post_init__(self) -> None:
        _check("crf.iterations", self.iterations, 0, 1000)
        for name in ("bilateral_xy", "bilateral_rgb", "gaussian_xy"):
            _check(f"crf.{name}", getattr(self, name), 0.01, 1e4)
        for name in ("bilateral_compat", "gaussian_compat"):
            _check(f"crf.{name}", getattr(self, name), 0, 1e4)
        _check("crf.softness", self.softness, 0, 1)


@dataclass(kw_only=True)
class PamrConfig:
    """Pixel-adaptive mask refinement of Araslanov and Roth (2020)."""

    iterations: int = 10
    """How often each pixel takes the weighted mean of its neighbours, a count."""
    dilations: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 12, 24])
    """Distances at which each pixel has eight neighbours, in pixels."""
    sigma: float = 0.1
    """Colour difference that matters, as a share of the local standard deviation, above 0."""

    def __post_init__(self) -> None:
        _check("labels.pamr.iterations", self.iterations, 0, 1000)
        if not self.dilations or not all(1 <= d <= 256 for d in self.dilations):
            raise ValueError(
                f"labels.pamr.dilations is {self.dilations}, expected distances from 1 to 256"
            )
        _check("labels.pamr.sigma", self.sigma, 1e-3, 100)


@dataclass(kw_only=True)
class RandomWalkConfig:
    """The random walk of PSA (Ahn and Kwak 2018) and IRN (2019) over cells that look alike."""

    affinity: Literal["colour", "features", "learned"] = "colour"
    """What makes two cells alike: colour (of the image), features (of a trained classifier's
    trunk) or learned (an `oaa affinity` run)."""
    checkpoint: str = ""
    """Run directory of the classifier or of `oaa affinity`; not read with colour."""
    grid: int = 64
    """Cells along the longer side of the image, a count, with colour; features and learned walk
    on the cells of the network."""
    radius: int = 3
    """Cells up to this distance apart are joined, in cells."""
    beta: float = 8.0
    """Exponent of the affinities, above 0: larger ones keep the walk inside more alike cells."""
    steps: int = 512
    """Steps of the walk, a count."""

    def __post_init__(self) -> None:
        if self.affinity != "colour" and not self.checkpoint:
            raise ValueError(
                f"labels.random_walk.checkpoint is empty, expected a run directory, since "
                f"labels.random_walk.affinity is {self.affinity}"
            )
        _check("labels.random_walk.grid", self.grid, 4, 512)
        _check("labels.random_walk.radius", self.radius, 1, 32)
        _check("labels.random_walk.beta", self.beta, 0.01, 1000)
        _check("labels.random_walk.steps", self.steps, 0, 100_000)


@dataclass(kw_only=True)
class LabelsConfig:
    """How attention becomes a pseudo label."""

    saliency: Literal["none", "dir", "spectral", "rembg"] = "none"
    """Where the background comes from: none (a threshold on attention, see `background`), dir
    (grey PNGs in `saliency_dir`), spectral (the spectral residual, which needs no weights) or
    rembg (a network of the U2-Net family; pip install dist_oaa[rembg])."""
    saliency_dir: str = ""
    """Folder with one grey PNG per image, ID.png: relative to the data root or to where you are,
    or a run of `oaa saliency`."""
    rembg_model: str = "u2netp"
    """Name of rembg's network; its weights come from where that package gets them."""
    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    """The background without saliency"""
    refine: list[str] = field(default_factory=list)
    """Refinements, applied in this order: crf, pamr, random_walk."""
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    """What is labelled and what is ignored"""
    crf: CrfConfig = field(default_factory=CrfConfig)
    """Dense CRF"""
    pamr: PamrConfig = field(default_factory=PamrConfig)
    """Pixel-adaptive refinement"""
    random_walk: RandomWalkConfig = field(default_factory=RandomWalkConfig)
    """Random walk"""

    def __post_init__(self) -> None:
        if (self.saliency == "dir") != bool(self.saliency_dir):
            raise ValueError(
                f"labels.saliency_dir is {self.saliency_dir!r} and labels.saliency is "
                f"{self.saliency}, expected a folder with saliency dir, and none otherwise"
            )
        unknown = [name for name in self.refine if name not in REFINEMENTS]
        if unknown or len(set(self.refine)) < len(self.refine):
            raise ValueError(
                f"labels.refine is {self.refine}, expected some of {', '.join(REFINEMENTS)}, each "
                "once"
            )


def _check(key: str, value: Any, lowest: float, highest: float) -> None:
    """ValueError that names the key unless the number lies in its range; nan never does."""
    if not (math.isfinite(value) and lowest <= value <= highest):
        raise ValueError(f"{key} is {value}, expected {lowest:g} to {highest:g}")
