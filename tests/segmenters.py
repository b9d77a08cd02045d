"""Small runs of `oaa segment`, as far as evaluation, prediction and export read them."""

import json
from pathlib import Path

import torch

from dist_oaa.config.load import dump_config
from dist_oaa.config.segment import SegmentConfig, SegmentDataConfig
from dist_oaa.config.segmentation import SegmentationConfig
from dist_oaa.models.segmentation.build import build_segmenter
from dist_oaa.models.segmentation.network import SegmentationNetwork
from dist_oaa.runtime.checkpoint import Checkpoint, save_checkpoint
from dist_oaa.runtime.rundir import save_settings

NAMES = ("cat", "dining table", "dog")


def network_settings(**changes: object) -> SegmentationConfig:
    """A network of some 20,000 weights."""
    usual: dict[str, object] = {"backbone": "test_efficientnet", "weights": "none"}
    if not str(changes.get("architecture", "")).startswith("smp:"):
        usual["head_channels"] = 8
    return SegmentationConfig(**usual | changes)


def varied(network: SegmentationNetwork, seed: int = 0) -> SegmentationNetwork:
    """Weights with which an untrained network gives different pixels different classes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1 and not name.startswith("trunk"):
                parameter.normal_(generator=generator)
    return network


def segmenter_run(
    run_dir: Path,
    names: tuple[str, ...] = NAMES,
    data: SegmentDataConfig | None = None,
    supervision: tuple[str, ...] = (),
    always: int | None = None,
    **changes: object,
) -> Path:
    """A run directory with such a network.

    Args:
        supervision: its audit lines.
        always: a label that the network gives every pixel; None leaves that to its weights.
        changes: of the network's settings.
    """
    config = SegmentConfig(
        run_dir=str(run_dir),
        data=data or SegmentDataConfig(root="somewhere"),
        network=network_settings(**changes),
    )
    network = varied(build_segmenter(config.network, len(names), 0)[0])
    if always is not None:
        with torch.no_grad():
            for branch in network.head.branches:
                branch.fc8.weight.zero_()
                branch.fc8.bias[always] = 9.0
    save_settings(run_dir, dump_config(config), names)
    record = json.dumps({"supervision": supervision})
    (run_dir / "supervision.json").write_text(record, encoding="utf-8")
    empty = {"state": {}, "param_groups": []}
    checkpoint = Checkpoint(network.state_dict(), empty, {"step": 7})
    save_checkpoint(run_dir / "checkpoints", "step-00000007", checkpoint, keep=1)
    return run_dir
