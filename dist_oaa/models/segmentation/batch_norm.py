"""Batch norm: frozen, of each process, or of all; and maps of a single cell."""

import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_oaa.models.segmentation.network import SegmentationNetwork


def set_batch_norm(network: SegmentationNetwork, kind: str) -> SegmentationNetwork:
    """The network with `network.batch_norm` frozen, train or sync."""
    if kind == "frozen":
        network.freeze_batch_norm()
    elif kind == "sync":
        # timm's, since its own batch norm layers hold an activation that torch's would drop.
        network = convert_sync_batchnorm(network)
    forgive_single_cells(network.head)
    return network


def forgive_single_cells(head: nn.Module) -> None:
    """Let batch norm in training take one value per channel: it uses its running statistics.

    torch refuses, since the variance of one value means nothing. But decoders that pool the
    whole image (DeepLabV3's) meet this wherever the last step of an epoch has a single image.
    """
    for layer in head.modules():
        if isinstance(layer, _BatchNorm):
            layer.register_forward_pre_hook(before_forward)
            layer.register_forward_hook(after_forward)


def before_forward(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Turns a training layer to its running statistics for one value per channel."""
    single = inputs[0].numel() == inputs[0].shape[1]
    if layer.training and single and not has_company(layer):
        layer.eval()
        layer.was_training = True


def after_forward(layer: nn.Module, _inputs: tuple[Tensor, ...], _output: Tensor) -> None:
    """Turns such a layer back to training."""
    if layer.__dict__.pop("was_training", False):
        layer.train()


def has_company(layer: nn.Module) -> bool:
    """Whether the layer's statistics are those of several processes."""
    together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return isinstance(layer, nn.SyncBatchNorm) and together
