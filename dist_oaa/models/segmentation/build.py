"""Building the segmentation network of `network`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dist_oaa.config.errors import UserError
from dist_oaa.config.model import ModelConfig
from dist_oaa.config.segmentation import SMP, SegmentationConfig
from dist_oaa.models.backbones import build_trunk
from dist_oaa.models.normalisation import NORMALISATIONS
from dist_oaa.models.segmentation.batch_norm import set_batch_norm
from dist_oaa.models.segmentation.heads import PAPER_STRIDE, build_head
from dist_oaa.models.segmentation.network import SegmentationNetwork
from dist_oaa.models.segmentation.smp_network import build_smp
from dist_oaa.models.weights import WeightsReport, load_trunk_weights


def build_segmenter(
    config: SegmentationConfig, num_classes: int, seed: int
) -> tuple[SegmentationNetwork, WeightsReport]:
    """The network of `network`, with its trunk's weights loaded, on the CPU in training mode.

    New weights are a function of the seed; the global random state is as before.

    Args:
        num_classes: object classes; the network has one channel more, the background.

    Raises:
        UserError: no such architecture or trunk, a stride it does not have, or what
            load_trunk_weights raises; names the key under `network`.
    """
    with torch.random.fork_rng(devices=[]), keys_of_network():
        # Not torch.manual_seed, which would seed the CUDA generators too.
        torch.random.default_generator.manual_seed(seed)
        if config.architecture.startswith(SMP):
            network, report = build_smp(config, num_classes)
        else:
            network, report = build_deeplab(config, num_classes)
            # A generator of its own: the head must not depend on what the trunk drew.
            network.head.reset(torch.Generator().manual_seed(seed))
    network = set_batch_norm(network, config.batch_norm)
    if config.normalise != "auto":
        network.normalisation = NORMALISATIONS[config.normalise]
    return network, report


def build_deeplab(
    config: SegmentationConfig, num_classes: int
) -> tuple[SegmentationNetwork, WeightsReport]:
    """large_fov or deeplab_v2 over any trunk that takes images of any size.

    Parameters with the 21 channels of VOC: LargeFOV on VGG16 20,505,429 (Chen et al., ICLR 2015,
    on the field of view: 20.5 M) and on ResNet-101 42,887,253; DeepLabv2 (Chen et al., TPAMI
    2018) on VGG16 37,877,652 and on ResNet-101 44,048,532. The trunks are those of torchvision
    (14,714,688 and 42,500,160 without classifiers). One difference from the Caffe networks: the
    first three pools of VGG16 are 2x2, as it was pretrained, and not 3x3, so that an input of
    321 pixels gives 40 x 40 cells and not 41 x 41.
    """
    own = ModelConfig(
        backbone=config.backbone,
        weights=config.weights,
        output_stride=config.output_stride or PAPER_STRIDE,
        out_index=config.out_index,
    )
    trunk = build_trunk(own)
    if trunk.fixed_size is not None:
        raise UserError(
            f"model.backbone is {config.backbone}, which takes images of {trunk.fixed_size} pixels "
            "only: expected a trunk for images of any size"
        )
    head = build_head(config, trunk.channels, trunk.stride, num_classes + 1)
    scales = tuple(config.multi_scale_inputs)
    network = SegmentationNetwork(trunk, head, num_classes, scales)
    return network, load_trunk_weights(trunk, own)


@contextmanager
def keys_of_network() -> Iterator[None]:
    """Trunks and weights name the keys of `model`; here the same settings stand in `network`."""
    try:
        yield
    except UserError as error:
        raise UserError(re.sub(r"\bmodel\.(?=[a-z])", "network.", str(error))) from error
