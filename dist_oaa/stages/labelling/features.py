"""Features of an image that a random walk compares: of a classifier's trunk, or learned ones.

PyTorch is imported only when features are asked for.

Shapes: HW3 an image, Dhw D channels on the cells of the network.
"""

from pathlib import Path
from typing import Protocol

import numpy as np

from dist_oaa.config.labels import LabelsConfig, RandomWalkConfig


class Features(Protocol):
    """Where features come from."""

    def features(self, image_HW3: np.ndarray) -> np.ndarray:
        """(D, h, w) float32 of a uint8 RGB image of any size."""


class TrunkFeatures:
    """What the trunk of a trained classifier sees, at the size that it was trained with.

    Raises:
        UserError: when the folder is no run of a classifier with a complete checkpoint.
    """

    def __init__(self, run_dir: Path) -> None:
        from dist_oaa.stages.trained import load_classifier

        self._trained = load_classifier(run_dir)

    def features(self, image_HW3: np.ndarray) -> np.ndarray:
        """(D, h, w) float32."""
        import torch

        from dist_oaa.data.augment import prepare

        model = self._trained.model
        resized_hw3, _ = prepare(image_HW3, self._trained.data, model.trunk.stride, None)
        image_13hw = torch.from_numpy(resized_hw3).permute(2, 0, 1)[None]
        with torch.inference_mode():
            return model.trunk(model.normalisation.apply(image_13hw))[0].float().numpy()


def needs_features(config: LabelsConfig) -> bool:
    """Whether there is a random walk that looks at more than colours."""
    return "random_walk" in config.refine and config.random_walk.affinity != "colour"


def feature_source(walk: RandomWalkConfig) -> Features:
    """What `labels.random_walk.checkpoint` gives.

    Raises:
        UserError: when it cannot be loaded.
    """
    if walk.affinity == "features":
        return TrunkFeatures(Path(walk.checkpoint))
    from dist_oaa.stages.learned_affinity import load_affinity

    return load_affinity(walk.checkpoint)
