"""The trunk of the OAA papers: VGG16 at stride 8, built from torchvision's layers."""

import torch
import torchvision
from torch import nn

from dist_oaa.config.errors import UserError

STRIDE = 8
# torchvision numbers the layers of `features`; weights load by these numbers, so they stay.
POOL4 = 23
CONV5 = (24, 26, 28)
# For each of the five stages: where its last ReLU ends, its channels and its stride.
STAGE_ENDS = (4, 9, 16, 23, 30)
STAGE_CHANNELS = (64, 128, 256, 512, 512)
STAGE_STRIDES = (1, 2, 4, 8, 8)


def build_vgg16_oaa(output_stride: int, out_index: int) -> tuple[nn.Sequential, int, int]:
    """VGG16 with pool4 as 3x3 max-pooling of stride 1, conv5_x dilated by 2 and no pool5.

    Source: train_integral.prototxt of the public OAA code (conv5: pad 2, dilation 2). The layers
    and their numbers are those of torchvision.models.vgg16().features (without the last pooling),
    so the weights of torchvision load by name. 14,714,688 parameters, all in 13 convolutions.

    Args:
        output_stride: 8, the only one of this trunk.
        out_index: the stage that is returned, 0 (conv1_2) to 4 (conv5_3) or -5 to -1.

    Returns:
        (B, 3, H, W) -> (B, channels, H / stride, W / stride), its channels and its stride.

    Raises:
        UserError: another output stride, or no such stage.
    """
    if output_stride != STRIDE:
        raise UserError(
            f"model.output_stride is {output_stride}, but vgg16_oaa has stride {STRIDE} only"
        )
    stages = len(STAGE_ENDS)
    if not -stages <= out_index < stages:
        raise UserError(
            f"model.out_index is {out_index}, but vgg16_oaa has {stages} stages: "
            f"expected {-stages} to {stages - 1}"
        )
    # On the meta device the 124 million parameters of the unused classifier cost nothing.
    with torch.device("meta"):
        layers = torchvision.models.vgg16(weights=None, init_weights=False).features
    layers[POOL4] = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
    for index in CONV5:
        layers[index].dilation = (2, 2)
        layers[index].padding = (2, 2)
    body = layers[: STAGE_ENDS[out_index]].to_empty(device="cpu")
    for layer in body:
        if isinstance(layer, nn.Conv2d):  # torchvision's own initialisation
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return body, STAGE_CHANNELS[out_index], STAGE_STRIDES[out_index]
