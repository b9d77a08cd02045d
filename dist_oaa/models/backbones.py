"""Trunks: what turns an image into the feature map that the head reads.

Shape legend: B images, 3 colours, C channels, H rows, W columns.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import Tensor, nn

from dist_oaa.config.errors import UserError
from dist_oaa.config.model import ModelConfig
from dist_oaa.models.vgg16_oaa import build_vgg16_oaa

# What timm raises where a model refuses an option; it has no exception of its own.
REFUSALS = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Trunk(nn.Module):
    """A feature extractor with one output.

    Attributes:
        channels: channels of the feature map.
        stride: input pixels per feature cell.
        mean, std: the input normalisation it was trained with, for RGB in 0..1.
        fixed_size: the one (height, width) that it takes, or None where it takes any.
        timm_name, timm_options: how timm builds the network that these weights come from.
    """

    def __init__(
        self,
        body: nn.Module,
        channels: int,
        stride: int,
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
        timm_name: str = "",
        timm_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.channels = channels
        self.stride = stride
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.timm_name = timm_name
        self.timm_options = timm_options or {}
        self.fixed_size: tuple[int, int] | None = None
        self.channels_come_last = str(getattr(body, "output_fmt", "")).endswith("NHWC")

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, C, about H / stride, about W / stride)."""
        if self.fixed_size is not None and images_B3HW.shape[-2:] != self.fixed_size:
            height, width = images_B3HW.shape[-2:]
            raise UserError(
                f"model.backbone is {self.timm_name}, which takes images of {self.fixed_size} "
                f"pixels only and got {(height, width)}: set data.resize to square and data.size "
                f"to {self.fixed_size[0]}"
            )
        features = self.body(images_B3HW)
        if isinstance(features, list | tuple):
            features = features[0]
        return features.permute(0, 3, 1, 2) if self.channels_come_last else features


@dataclass(frozen=True)
class OwnTrunk:
    """A trunk of this project: its builder, and the timm model whose weights fit it."""

    build: Callable[[int, int], tuple[nn.Module, int, int]]
    """(output_stride, out_index) -> (body, channels, stride)"""
    timm_name: str


OWN_TRUNKS: dict[str, OwnTrunk] = {
    "vgg16_oaa": OwnTrunk(build=build_vgg16_oaa, timm_name="vgg16.tv_in1k"),
}


def build_trunk(config: ModelConfig) -> Trunk:
    """Build `model.backbone` with random weights (weights.py loads the trained ones).

    A trunk of OWN_TRUNKS, or any timm model with feature extraction. `model.output_stride` is the
    stride of the deepest stage; a shallower `model.out_index` may have a finer one. A model whose
    stride is fixed is taken where its stride is the one asked for.

    Raises:
        UserError: unknown name, no feature extraction, no such stage, or no such stride.
    """
    own = OWN_TRUNKS.get(config.backbone)
    if own is not None:
        body, channels, stride = own.build(config.output_stride, config.out_index)
        return Trunk(body, channels, stride, timm_name=own.timm_name)
    check_name(config.backbone)
    body, options = create_timm_features(config)
    cfg = body.pretrained_cfg
    trunk = Trunk(
        body,
        channels=body.feature_info.channels()[0],
        stride=body.feature_info.reduction()[0],
        mean=cfg.get("mean", IMAGENET_DEFAULT_MEAN),
        std=cfg.get("std", IMAGENET_DEFAULT_STD),
        timm_name=config.backbone,
        timm_options=options,
    )
    if cfg.get("fixed_input_size") and "dynamic_img_size" not in options:
        trunk.fixed_size = tuple(cfg["input_size"][1:])
    return trunk


def check_name(name: str) -> None:
    """Raise a UserError with the nearest names unless timm knows the model and its weights tag."""
    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        known = [*OWN_TRUNKS, *timm.list_models()]
        near = difflib.get_close_matches(arch, known, n=3, cutoff=0.5)
        hint = f"the nearest names are {', '.join(near)}" if near else "expected a timm model name"
        raise UserError(f"model.backbone is {name!r}, which timm does not know: {hint}")
    if tag:
        tags = [full.partition(".")[2] for full in timm.list_pretrained(arch)]
        if tag not in tags:
            raise UserError(
                f"model.backbone is {name!r}, but timm has no weights {tag!r} for {arch}: "
                f"expected one of {', '.join(tags) or 'none'}"
            )


def create_timm_features(config: ModelConfig) -> tuple[nn.Module, dict[str, Any]]:
    """The timm feature extractor and the options it was made with.

    Raises:
        UserError: no feature extraction, no such stage, or no such stride.
    """
    name, stride = config.backbone, config.output_stride
    candidates: list[dict[str, Any]] = [{"output_stride": stride}, {}]
    if timm.get_pretrained_cfg(name).fixed_input_size:
        # A vision transformer takes our images of any shape only when told so.
        dynamic = {"dynamic_img_size": True, "dynamic_img_pad": True}
        candidates = [{**c, **dynamic} for c in candidates] + candidates
    for candidate in candidates:
        options = {"out_indices": (config.out_index,), **candidate}
        body = try_timm(name, options)
        if body is None:
            continue
        if isinstance(body, EfficientNetFeatures | MobileNetV3Features):
            # These alone keep the stages behind `out_index`: needless work, and parameters
            # without a gradient, which DDP does not allow.
            body.blocks = body.blocks[: body.feature_info.get_dicts(keys=["stage"])[0]["stage"]]
        actual = body.feature_info.reduction()[0]
        fits = actual <= stride if "output_stride" in options else actual == stride
        if fits:
            return body, options
        raise UserError(
            f"model.output_stride is {stride}, but stage {config.out_index} of {name} has "
            f"stride {actual}"
        )
    raise refusal(config)


def try_timm(name: str, options: dict[str, Any]) -> nn.Module | None:
    """The feature extractor with random weights, or None where the model refuses an option."""
    try:
        return timm.create_model(name, pretrained=False, features_only=True, **options)
    except REFUSALS:
        return None


def refusal(config: ModelConfig) -> UserError:
    """The sentence for a model that could not be built: what of the configuration is at fault."""
    with torch.device("meta"):  # only the number of stages is of interest
        body = try_timm(config.backbone, {})
    if body is None:
        return UserError(
            f"model.backbone is {config.backbone}, which has no feature extraction in timm "
            f"{timm.__version__}: expected a model that timm creates with features_only=True"
        )
    stages = len(body.feature_info.info)
    return UserError(
        f"model.out_index is {config.out_index}, but {config.backbone} has {stages} stages: "
        f"expected {-stages} to {stages - 1}"
    )
