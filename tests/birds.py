"""A small data set in the layout of CUB-200-2011, and classifiers that were never trained."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.data import DataConfig
from dist_oaa.config.load import dump_config
from dist_oaa.config.model import ModelConfig
from dist_oaa.models.classifier import build_classifier
from dist_oaa.runtime.checkpoint import Checkpoint, save_checkpoint
from dist_oaa.runtime.rundir import save_settings

NAMES = ("001.Auk", "002.Blackbird", "003.Wren")


def make_cub(root: Path, train: int = 12, test: int = 7, names: Sequence[str] = NAMES) -> Path:
    """Images of several sizes, each with a patch in the colour of its class, which its box fits."""
    rng = np.random.default_rng(7)
    lines: dict[str, list[str]] = {
        name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes")
    }
    for number in range(1, train + test + 1):
        class_index = number % len(names)
        height, width = (int(side) for side in rng.integers(48, 72, 2))
        box_width, box_height = (int(side) for side in rng.integers(32, 44, 2))
        x, y = int(rng.integers(0, width - box_width)), int(rng.integers(0, height - box_height))
        image_HW3 = rng.integers(90, 120, (height, width, 3), dtype=np.uint8)
        image_HW3[y : y + box_height, x : x + box_width, class_index % 3] = 255
        path = f"{names[class_index]}/Bird_{number:04d}.jpg"
        (root / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_HW3).save(root / "images" / path, quality=95)
        lines["images"].append(f"{number} {path}")
        lines["image_class_labels"].append(f"{number} {class_index + 1}")
        lines["train_test_split"].append(f"{number} {int(number <= train)}")
        lines["bounding_boxes"].append(f"{number} {x}.0 {y}.0 {box_width}.0 {box_height}.0")
    lines["classes"] = [f"{number} {name}" for number, name in enumerate(names, start=1)]
    for name, rows in lines.items():
        (root / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return root


def classifier_run(
    run_dir: Path, data: DataConfig, names: Sequence[str] = NAMES, seed: int = 0, **model: object
) -> Path:
    """What `oaa classify` leaves of a network, whose random weights give maps with structure."""
    usual = {"backbone": "test_efficientnet", "weights": "none", "head_layers": 0}
    config = ModelConfig(**usual | {"labels": "single"} | model)
    network, _ = build_classifier(config, len(names), seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in network.trunk.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, generator=generator)
    for name, parameter in network.named_parameters():
        if "class_aware.weight" in name:
            torch.nn.init.normal_(parameter, generator=generator)
    save_settings(run_dir, dump_config(ClassifyConfig(model=config, data=data)), tuple(names))
    state = Checkpoint(network.state_dict(), {"state": {}, "param_groups": []}, {"step": 9})
    save_checkpoint(run_dir / "checkpoints", "step-00000009-g000001", state, 1)
    return run_dir
