"""Class activation maps of a classifier of one's own, with every forward pass.

Legend: B images, 3 colours, C classes, H x W pixels or feature cells.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dist_oaa.config.errors import UserError
from dist_oaa.plugin.finding import Search, logits_of
from dist_oaa.plugin.linear_path import LinearPath

WAYS_OUT = (
    "expected global average pooling and one linear layer, or a convolution to the classes and "
    "then the pooling; name the layer of the feature map with layer=, put a new head on the "
    "tokens of a transformer with TokenMap (timm: global_pool='avg'), or take the maps of another "
    "method, such as Grad-CAM, with ExternalCAM"
)


class OnlineCAM(nn.Module):
    """A classifier that also gives its class activation maps: `logits, cam = OnlineCAM(model)(x)`.

    The mean of F_c over the cells is the score of class c, bias included (Eq. 1 of the papers), for
    whatever classifier ends in an average pooling and a linear layer, or a convolution to the
    classes and a pooling: ResNet, ConvNeXt, EfficientNet, Swin, VGG with a convolutional head,
    vision transformers that pool their patches. The path is found at the first call, in two or
    more passes over two images of noise, and it is held against the scores. Dropout before the
    linear layer is left out of the maps.

    Args:
        model: the classifier, also wrapped in DDP or torch.compile; used as it is, not copied.
        layer: the layer whose output is the feature map, by name or as a module; found if None.

    Raises:
        UserError: when `layer` is no layer of the model.
    """

    def __init__(self, model: nn.Module, layer: str | nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        named = dict(unwrapped(model).named_modules())
        if isinstance(layer, str) and layer not in named:
            raise UserError(
                f"layer is {layer!r}, expected a name of model.named_modules(), such as "
                f"{list(named)[-2:]}"
            )
        found = named[layer] if isinstance(layer, str) else layer
        if found is not None and not any(found is module for module in named.values()):
            raise UserError(f"layer is a {type(found).__name__} that is no part of the model")
        # In a tuple, so that it is not registered as a part a second time.
        self._layer = (found,)
        self._path: tuple[LinearPath, ...] = ()
        self._listens = False
        self._seen: dict[str, Tensor] = {}

    @property
    def layer_name(self) -> str | None:
        """Name of the layer whose output is the feature map; None before the first call."""
        return self._path[0].name if self._path else None

    def forward(self, images: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Scores and maps.

        Args:
            images: (B, 3, H, W), normalised as the model wants them; what follows is passed on.

        Returns:
            logits (B, C), as the model gives them, and F (B, C, H, W), without gradients.

        Raises:
            UserError: at the first call, when the scores are not linear in a feature map.
        """
        if not self._path:
            self._path = (self._find(images),)
        path = self._path[0]
        self._seen.clear()
        # Only now: a backward pass with checkpointing runs the layers again.
        self._listens = True
        try:
            logits_BC = logits_of(self.model(images, *args, **kwargs))
        finally:
            self._listens = False
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            input_hw = (images.shape[-2], images.shape[-1])
            output = self._seen["layer"]
            features_BDHW = path.features(output, unwrapped(self.model), input_hw)
            cam_BCHW = path.class_maps(features_BDHW, self._seen.get("input"))
        self._seen.clear()
        return logits_BC, cam_BCHW

    def _find(self, images: Tensor) -> LinearPath:
        inner = unwrapped(self.model)
        search = Search(inner, self._layer[0], images)
        path = search.path
        if path is None:
            named = "" if self._layer[0] is None else " after the layer that was named"
            raise UserError(
                f"OnlineCAM finds no linear path from features to classes in "
                f"{type(inner).__name__}{named}: {search.why}; {WAYS_OUT}"
            )
        path.layer.register_forward_hook(self._keep_output)
        if path.head is not None:
            path.head.register_forward_hook(self._keep_input)
        return path

    def _keep_output(self, module: nn.Module, given: tuple, output: Tensor) -> None:
        if self._listens:
            self._seen["layer"] = output.detach()

    def _keep_input(self, module: nn.Module, given: tuple, output: Tensor) -> None:
        if self._listens:
            self._seen["input"] = given[0].detach().flatten(1)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DDP, DataParallel and torch.compile."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model
