"""A trained affinity network from a run directory: features for the random walk of pseudo labels.

Legend: H x W pixels, D channels, h x w cells.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dist_oaa.config.affinity import AffinityNetConfig
from dist_oaa.config.data import DataConfig
from dist_oaa.config.model import ModelConfig
from dist_oaa.data.augment import prepare
from dist_oaa.models.affinity_net import AffinityNet, build_affinity_net
from dist_oaa.stages.run_settings import (
    build_settings,
    load_weights,
    published_checkpoint,
    read_classes,
    read_settings,
    require,
)

COMMAND = "oaa affinity"


@dataclass(frozen=True)
class LearnedAffinity:
    """An affinity network and the size at which it looks at images."""

    network: AffinityNet
    """In evaluation mode."""
    data: DataConfig
    """What it was trained on; `resize`, `size` and `max_aspect` count here."""
    config: AffinityNetConfig
    """Its settings; `radius` is the distance up to which it has compared cells."""
    class_names: tuple[str, ...]
    """Classes of the labels that it learnt from, in the order of their indices."""
    step: int
    """Optimiser steps of the checkpoint."""

    def features(self, image_HW3: np.ndarray) -> np.ndarray:
        """The image's features, float32 (D, h, w), over the whole image whatever its aspect.

        The affinity of two cells is exp(-mean |f_i - f_j|).

        Args:
            image_HW3: uint8 RGB.
        """
        resized_hw3, _ = prepare(image_HW3, self.data, self.network.multiple, None)
        device = next(self.network.parameters()).device
        image_13HW = torch.from_numpy(resized_hw3).permute(2, 0, 1)[None].to(device)
        with torch.inference_mode():
            features_1Dhw = self.network(self.network.normalisation.apply(image_13HW))
        return features_1Dhw[0].float().cpu().numpy()


def load_affinity(checkpoint: str | Path) -> LearnedAffinity:
    """Loads the published checkpoint of a run of `oaa affinity`, on the CPU.

    Args:
        checkpoint: the run directory.

    Raises:
        UserError: when the folder is no such run, has no complete checkpoint, or is damaged.
    """
    run_dir = Path(checkpoint)
    tree = read_settings(run_dir, COMMAND)
    require(tree, ("affinity", "model", "data"), run_dir, "affinity network", COMMAND)
    model = build_settings(ModelConfig, tree, "model", run_dir)
    config = build_settings(AffinityNetConfig, tree, "affinity", run_dir)
    data = build_settings(DataConfig, tree, "data", run_dir)
    class_names = read_classes(run_dir)
    published = published_checkpoint(run_dir)
    network, _ = build_affinity_net(dataclasses.replace(model, weights="none"), config, 0)
    step = load_weights(network, published, run_dir, class_names)
    return LearnedAffinity(network.eval(), data, config, class_names, step)
