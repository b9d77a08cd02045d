"""Settings of a segmentation network."""

from dataclasses import dataclass, field
from typing import Literal

ARCHITECTURES = ("large_fov", "deeplab_v2")
SMP = "smp:"


@dataclass(kw_only=True)
class SegmentationConfig:
    """A trunk and the head that gives every pixel a class or the background."""

    architecture: str = "large_fov"
    """`large_fov` (DeepLab-LargeFOV), `deeplab_v2` (four dilated branches, summed), or `smp:NAME`,
    an architecture of segmentation_models_pytorch such as smp:Unet, smp:DeepLabV3Plus, smp:UPerNet
    or smp:Segformer."""
    backbone: str = "tf_efficientnet_lite0"
    """The trunk: `vgg16_oaa` (the papers' VGG16), or any timm model with feature extraction, such
    as `resnet101` (the papers' too). For smp:NAME one of its encoders (resnet50, mit_b0, ...) or a
    timm model."""
    weights: str = "timm"
    """Source of the trunk's weights: `timm` (its hub, or that of smp for its own encoders), `none`,
    `package:NAME` (an installed weights package), or the path of a .pth or .safetensors file."""
    output_stride: int = 0
    """Input pixels per feature cell: 8, 16 or 32 where the trunk supports it; 0 leaves it to the
    architecture (8, the papers', for large_fov and deeplab_v2)."""
    out_index: int = -1
    """Which stage of the trunk feeds the head, 0 the shallowest, -1 the deepest; large_fov and
    deeplab_v2 only."""
    head: Literal["auto", "mlp", "plain"] = "auto"
    """How large_fov and deeplab_v2 end: mlp is fc6-fc7-fc8 (a dilated 3x3 and two 1x1 convolutions:
    the papers' VGG16), plain is one dilated 3x3 convolution (the papers' ResNet-101), auto takes
    plain for backbones named resnet... and mlp for all others."""
    head_channels: int = 1024
    """Channels of fc6 and fc7 of an mlp head, a count."""
    rates: list[int] = field(default_factory=list)
    """Dilations of the head's branches, in feature cells: one for large_fov. Empty takes the
    papers': 12, or 6 12 18 24 for deeplab_v2, at stride 8; the same in pixels at other strides."""
    dropout: float = 0.5
    """Share of the units of fc6 and fc7 that each training step silences, 0 to below 1."""
    batch_norm: Literal["frozen", "train", "sync"] = "frozen"
    """The trunk's batch norm: frozen keeps what was pretrained; train learns it from each process's
    own images; sync from the images of all processes (GPUs only). Where an architecture's decoder
    has batch norm of its own, frozen and train both train it."""
    multi_scale_inputs: list[float] = field(default_factory=list)
    """Factors on the input at which the network itself looks, fused by the largest score
    (DeepLabv2's MSC: 0.5 0.75 1); must hold 1. Empty looks at the input once."""
    normalise: Literal["auto", "imagenet", "half", "caffe"] = "auto"
    """Input normalisation: auto takes the trunk's own, imagenet its mean and deviation, half maps
    to [-1, 1], caffe subtracts the BGR mean from 0..255 values."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES and not self.architecture.startswith(SMP):
            raise ValueError(
                f"network.architecture is {self.architecture!r}, expected "
                f"{', '.join(ARCHITECTURES)} or smp:NAME"
            )
        if self.output_stride not in (0, 4, 8, 16, 32):
            raise ValueError(
                f"network.output_stride is {self.output_stride}, expected 0, 4, 8, 16 or 32"
            )
        if self.head_channels < 1:
            raise ValueError(f"network.head_channels is {self.head_channels}, expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"network.dropout is {self.dropout}, expected 0 to below 1")
        self._check_rates()
        scales = self.multi_scale_inputs
        if scales and (1 not in scales or not all(0 < scale <= 2 for scale in scales)):
            raise ValueError(
                f"network.multi_scale_inputs is {scales}, expected no factors, or some above 0 "
                "and at most 2 with 1 among them"
            )

    def _check_rates(self) -> None:
        if any(rate < 1 for rate in self.rates):
            raise ValueError(f"network.rates is {self.rates}, expected dilations of 1 or more")
        if self.architecture == "large_fov" and len(self.rates) > 1:
            raise ValueError(
                f"network.rates is {self.rates}, expected one dilation for large_fov "
                "(deeplab_v2 has several branches)"
            )
