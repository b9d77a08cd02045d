"""Classifiers of five classes for 64 x 64 pixels, of every family that OnlineCAM is for."""

import timm
import torch
import torchvision.models as tv
from torch import nn

from dist_oaa import TokenMap

CLASSES, SIDE, WIDTH = 5, 64, 24


def on_map(features: nn.Module, head: nn.Module) -> nn.Module:
    """Features, a convolution to the classes, and the mean."""
    return nn.Sequential(features, head, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def vgg11_features() -> nn.Module:
    """Without the 120 million weights of its head."""
    return tv.vgg.make_layers(tv.vgg.cfgs["A"], batch_norm=False)


def vit(**options) -> nn.Module:
    return timm.create_model("test_vit", num_classes=CLASSES, img_size=SIDE, **options)


class HalfResNet(nn.Module):
    """A functional tail: mean over the cells, without a module for it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, WIDTH, 4, 4), nn.ReLU())
        self.classes = nn.Linear(WIDTH, CLASSES)

    def forward(self, images):
        return {"logits": self.classes(self.body(images).mean((2, 3)))}


class Tokens(nn.Module):
    """A stand-in for encoders that are not installed: patches and two tokens before them."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, WIDTH, 16, 16)
        self.first = nn.Parameter(torch.randn(1, 2, WIDTH))
        self.mix = nn.TransformerEncoderLayer(WIDTH, 2, WIDTH, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, images):
        patches = self.cut(images).flatten(2).transpose(1, 2)
        first = self.first.expand(len(images), -1, -1)
        return self.norm(self.mix(torch.cat([first, patches], 1)))


class DinoLinear(nn.Module):
    """The linear classifier of DINOv2: class token beside the mean of the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.linear_head = Tokens(), nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, images):
        tokens = self.backbone(images)
        return self.linear_head(torch.cat([tokens[:, 0], tokens[:, 2:].mean(1)], 1))


class HubEncoder(Tokens):
    """Answers as DINOv2 of torch.hub does."""

    def forward_features(self, images):
        tokens = super().forward(images)
        return {"x_norm_clstoken": tokens[:, 0], "x_norm_patchtokens": tokens[:, 2:]}


LINEAR = {
    "torchvision resnet": lambda: tv.resnet18(num_classes=CLASSES),
    "torchvision convnext": lambda: tv.convnext_tiny(num_classes=CLASSES),
    "torchvision efficientnet": lambda: tv.efficientnet_b0(num_classes=CLASSES),
    "torchvision swin": lambda: tv.SwinTransformer(
        [4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=5
    ),
    "torchvision squeezenet": lambda: tv.squeezenet1_1(num_classes=CLASSES),
    "torchvision densenet": lambda: tv.DenseNet(8, (2, 2), 16, num_classes=CLASSES),
    "VGG, conv head": lambda: on_map(vgg11_features(), nn.Conv2d(512, CLASSES, 1)),
    "timm resnet": lambda: timm.create_model("test_resnet", num_classes=CLASSES),
    "timm convnext": lambda: timm.create_model("test_convnext", num_classes=CLASSES),
    "timm efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=CLASSES),
    "timm vit of patches": lambda: vit(global_pool="avg"),
    "vit, conv head on tokens": lambda: on_map(TokenMap(vit()), nn.Conv2d(64, CLASSES, 1)),
    "vit, linear head on tokens": lambda: nn.Sequential(
        TokenMap(vit()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)
    ),
    "DINOv2 of torch.hub": lambda: on_map(TokenMap(HubEncoder()), nn.Conv2d(WIDTH, CLASSES, 1)),
    "tokens of any encoder": lambda: on_map(TokenMap(Tokens()), nn.Conv2d(WIDTH, CLASSES, 1)),
    "DINOv2's linear classifier": DinoLinear,
    "functional": HalfResNet,
}

NOT_LINEAR = {
    "VGG's own head": lambda: nn.Sequential(
        vgg11_features(), nn.Flatten(), nn.Linear(2048, 32), nn.ReLU(), nn.Linear(32, CLASSES)
    ),
    "MobileNetV3": lambda: tv.mobilenet_v3_small(num_classes=CLASSES),
    "class token": vit,
    "class token of torchvision": lambda: tv.VisionTransformer(64, 16, 1, 2, 32, 32, num_classes=5),
    "maximum pooling": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)
    ),
    "softmax in the model": lambda: nn.Sequential(tv.resnet18(num_classes=CLASSES), nn.Softmax(1)),
}
