"""Architectures of segmentation_models_pytorch (smp) by name.

Shape legend: B images, 3 colours, H x W pixels, L label channels (background first).
"""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from dist_oaa.config.errors import UserError, in_one_line
from dist_oaa.config.extras import need
from dist_oaa.config.model import ModelConfig
from dist_oaa.config.segmentation import SMP, SegmentationConfig
from dist_oaa.models.backbones import OWN_TRUNKS, REFUSALS, check_name
from dist_oaa.models.segmentation.network import SegmentationNetwork
from dist_oaa.models.weights import State, WeightsReport, load_trunk_weights, take

# Not DPT (images of one size only) and not PAN (none under 128 pixels).
NAMES = (
    *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet"),
    *("DeepLabV3", "DeepLabV3Plus", "UPerNet", "Segformer"),
)
# smp's own encoders with ImageNet's normalisation; any other name is taken as one of timm.
OWN_ENCODERS = (
    *("resnet", "resnext", "vgg", "se_res", "senet", "densenet"),
    *("efficientnet-", "mobilenet_v2", "mobileone", "mit_b"),
)
TIMM = "tu-"


class SmpTrunk(nn.Module):
    """An encoder of smp, which gives the feature maps of all its stages.

    Attributes: as those of models.backbones.Trunk.
    """

    def __init__(
        self,
        encoder: nn.Module,
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
        timm_name: str = "",
    ) -> None:
        super().__init__()
        self.body = encoder
        self.stride: int = encoder.output_stride
        self.mean, self.std = tuple(mean), tuple(std)
        self.timm_name = timm_name
        self.timm_options: dict[str, Any] = {}

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """The image itself, then the features of every stage, shallowest first."""
        return self.body(images_B3HW)


class SmpHead(nn.Module):
    """The decoder and the last layer of an architecture of smp."""

    def __init__(self, decoder: nn.Module, segmentation_head: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.segmentation_head = segmentation_head

    def forward(self, features: list[Tensor]) -> Tensor:
        """(B, L, H, W) scores at the size of the input."""
        return self.segmentation_head(self.decoder(features))


class SmpNetwork(SegmentationNetwork):
    """A SegmentationNetwork whose trunk wants whole cells, and whose scores have pixels' size."""

    def score(self, images_B3HW: Tensor) -> Tensor:
        """(B, L, H, W) scores; the images are padded with the mean colour to whole cells."""
        height, width = images_B3HW.shape[-2:]
        padded = F.pad(images_B3HW, (0, -width % self.stride, 0, -height % self.stride))
        return super().score(padded)[..., :height, :width]


def build_smp(
    config: SegmentationConfig, num_classes: int
) -> tuple[SegmentationNetwork, WeightsReport]:
    """The architecture of smp that `network.architecture` names, its encoder's weights loaded.

    Raises:
        UserError: smp not installed; no such architecture, encoder or stride; a setting that
            only large_fov and deeplab_v2 have; what load_trunk_weights raises.
    """
    check_settings(config)
    encoder, timm_name = encoder_of(config.backbone)
    model = create(config, encoder, num_classes + 1)
    normalisation = ()
    if timm_name:
        cfg = timm.get_pretrained_cfg(timm_name)
        normalisation = (cfg.mean, cfg.std)
    trunk = SmpTrunk(model.encoder, *normalisation, timm_name=timm_name)
    head = SmpHead(model.decoder, model.segmentation_head)
    network = SmpNetwork(trunk, head, num_classes, tuple(config.multi_scale_inputs))
    check_stride(config, network)
    if config.weights == "timm" and not timm_name:
        return network, take(trunk, read_smp(encoder), f"smp {encoder}")
    source = ModelConfig(backbone=timm_name or encoder, weights=config.weights)
    return network, load_trunk_weights(trunk, source)


def check_settings(config: SegmentationConfig) -> None:
    """Raise a UserError for an unknown architecture, or a setting that smp's do not have."""
    name = config.architecture.removeprefix(SMP)
    if name.lower() not in [known.lower() for known in NAMES]:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
        hint = f"did you mean {SMP}{near[0]}? Expected" if near else "expected"
        raise UserError(
            f"network.architecture is {config.architecture}: {hint} {SMP} and one of "
            f"{', '.join(NAMES)}"
        )
    plain = SegmentationConfig()
    for key in ("out_index", "head", "head_channels", "rates", "dropout"):
        if getattr(config, key) != getattr(plain, key):
            raise UserError(
                f"network.{key} is {getattr(config, key)}, a setting of large_fov and deeplab_v2 "
                f"that {config.architecture} does not have: leave it out"
            )


def smp() -> Any:
    """The package; imported late, since it takes seconds and few commands need it.

    Raises:
        UserError: when it is not installed.
    """
    return need("segmentation_models_pytorch", "network.architecture is smp:NAME, which")


def encoder_of(backbone: str) -> tuple[str, str]:
    """smp's name of the encoder, and timm's where it is one of timm (else empty).

    Raises:
        UserError: neither knows it.
    """
    if backbone.startswith(OWN_ENCODERS) and backbone in smp().encoders.encoders:
        return backbone, ""
    if backbone in OWN_TRUNKS:
        raise UserError(f"model.backbone is {backbone}, which smp does not have: try vgg16")
    name = backbone.removeprefix(TIMM)
    check_name(name)
    return TIMM + name, name


def create(config: SegmentationConfig, encoder: str, num_labels: int) -> nn.Module:
    """The model as smp builds it, with random weights.

    Raises:
        UserError: when it refuses the encoder or the stride.
    """
    name = config.architecture.removeprefix(SMP)
    options: dict[str, Any] = {}
    build = smp().MODEL_ARCHITECTURES_MAPPING[name.lower()]
    if config.output_stride and "encoder_output_stride" in inspect.signature(build).parameters:
        options["encoder_output_stride"] = config.output_stride
    return accepted(
        config,
        lambda: build(encoder_name=encoder, encoder_weights=None, classes=num_labels, **options),
    )


def check_stride(config: SegmentationConfig, network: SegmentationNetwork) -> None:
    """Raise a UserError for another stride than asked for, or a trunk for one image size only."""
    stride = network.stride
    if config.output_stride not in (0, stride):
        raise UserError(
            f"network.output_stride is {config.output_stride}, but {config.architecture} has "
            f"stride {stride}"
        )
    network.eval()
    with torch.no_grad():
        accepted(config, lambda: network(torch.zeros(1, 3, 2 * stride, 3 * stride)))
    network.train()


def accepted(config: SegmentationConfig, make: Callable[[], Any]) -> Any:
    """What `make` returns; a UserError where the architecture refuses the encoder."""
    try:
        return make()
    except REFUSALS as error:
        reason = in_one_line(error)
        raise UserError(
            f"network.architecture is {config.architecture}, which does not take "
            f"network.backbone {config.backbone} ({type(error).__name__}: {reason})"
        ) from error


def read_smp(encoder: str) -> State:
    """The trained state dict of one of smp's own encoders (from its hub or the cache).

    Raises:
        UserError: when it cannot be had.
    """
    encoders = smp().encoders
    settings = list(encoders.encoders[encoder]["pretrained_settings"])
    weights = "imagenet" if "imagenet" in settings else settings[0]
    try:
        return encoders.get_encoder(encoder, weights=weights).state_dict()
    except Exception as error:  # the hub's client and its transport each raise their own
        reason = in_one_line(error)
        raise UserError(
            f"network.weights is timm, but smp's weights of {encoder} could not be downloaded "
            f"({type(error).__name__}: {reason}): check the network, or set network.weights to "
            "the path of a .pth or .safetensors file, or to none"
        ) from error
