"""Finds how a classifier's scores follow from its last feature map, by watching it run once.

A score that is linear in the mean of a feature map has a class activation map whose mean it is:

    z_c = sum_d w_cd mean(f_d) + b_c    F_c(x) = sum_d w_cd f_d(x) + b_c    mean(F_c) = z_c

Two things between may stay: a layer norm of the means, which is linear once an image's statistics
are known, and inputs of the head that come from elsewhere (a class token beside the mean of the
patches), which are a constant of the image. Nothing is believed from names: the path is taken only
where it gives the numbers that the network gives.

Legend: B images, C classes, D channels of the features, E channels of the head's input (E - D come
from elsewhere), HW feature cells, N tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_oaa.plugin.tokens import patch_grid, tokens_to_map

PROBES = 2
# Relative to the largest value: sums in another order differ by 1e-6, another pooling by 1e-1.
SAME = {torch.float32: 1e-4, torch.float64: 1e-6}
SAME_HALF = 2e-2
# The linear layer itself is only recomputed; TF32 may round it.
SAME_HEAD = 2e-2


Head = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class LinearPath:
    """The way from a layer's output to the scores."""

    layer: nn.Module
    """Its output is the feature map, or the class activation map where there is no head."""
    name: str
    layout: str
    """Of that output: BCHW, BHWC or BNC (tokens)."""
    head: Head | None = None
    """Linear, or a 1x1 convolution, on the means."""
    norm: nn.LayerNorm | None = None
    """Between the means and the head."""

    def features(self, output: Tensor, model: nn.Module, input_hw: tuple[int, int]) -> Tensor:
        """The layer's output as (B, D, H, W), a view."""
        found = as_map(output, self.layout, model, input_hw)
        assert found is not None, "the layout has changed since the path was found"
        return found

    def class_maps(self, features_BDHW: Tensor, head_input: Tensor | None) -> Tensor:
        """F, (B, C, H, W), whose mean over the cells is the score; float32 where it is computed."""
        if self.head is None:
            return features_BDHW
        features_BDHW = features_BDHW.float()
        weight_CE = self.head.weight.flatten(1).float()
        elsewhere = weight_CE.shape[1] - features_BDHW.shape[1]
        weight_CD = weight_CE[:, elsewhere:]
        constant_BC = features_BDHW.new_zeros(1, len(weight_CD))
        if self.head.bias is not None:
            constant_BC = constant_BC + self.head.bias.float()
        if elsewhere:
            assert head_input is not None, "a head that reads more than the means"
            given_BE = head_input.float()
            constant_BC = constant_BC + given_BE[:, :elsewhere] @ weight_CE[:, :elsewhere].T
        if self.norm is None:
            return _project(features_BDHW, weight_CD) + constant_BC[:, :, None, None]
        if self.norm.bias is not None:
            constant_BC = constant_BC + weight_CD @ self.norm.bias.float()
        if self.norm.weight is not None:
            weight_CD = weight_CD * self.norm.weight.float()
        # Taking the mean over the channels away from f is taking it away from w.
        weight_CD = weight_CD - weight_CD.mean(dim=1, keepdim=True)
        variance_B = features_BDHW.mean(dim=(2, 3)).var(dim=1, correction=0)
        scale_B111 = torch.rsqrt(variance_B + self.norm.eps)[:, None, None, None]
        return _project(features_BDHW, weight_CD) * scale_B111 + constant_BC[:, :, None, None]

    def head_input_from(self, features_BDHW: Tensor) -> Tensor:
        """What the head is given by this path: the (normalised) means, (B, D)."""
        mean_BD = features_BDHW.float().mean(dim=(2, 3))
        if self.norm is None:
            return mean_BD
        weight, bias = (
            None if part is None else part.float() for part in (self.norm.weight, self.norm.bias)
        )
        return F.layer_norm(mean_BD, mean_BD.shape[1:], weight, bias, self.norm.eps)


def _project(features_BDHW: Tensor, weight_CD: Tensor) -> Tensor:
    return F.conv2d(features_BDHW, weight_CD[:, :, None, None])


@dataclass
class Event:
    """A module that has run: its name, and the shape of what it gave."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]


def as_map(
    output: Tensor, layout: str, model: nn.Module, input_hw: tuple[int, int]
) -> Tensor | None:
    """A layer's output as (B, D, H, W); None where it is no map of that layout."""
    if layout == "BNC":
        return tokens_to_map(output, patch_grid(model, input_hw))
    return output if layout == "BCHW" else output.permute(0, 3, 1, 2)


def layout_of(shape: tuple[int, ...], channels: set[int]) -> str | None:
    """How channels lie in an output that has more than one cell; None where it is no map."""
    if len(shape) == 3 and shape[2] in channels and shape[1] > 1:
        return "BNC"
    if len(shape) == 4 and shape[1] in channels and shape[2] * shape[3] > 1:
        return "BCHW"
    if len(shape) == 4 and shape[3] in channels and shape[1] * shape[2] > 1:
        return "BHWC"
    return None


@contextmanager
def measuring(model: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """Noise like `images`, while the model is in evaluation mode and nothing learns."""
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn((PROBES, *images.shape[1:]), generator=generator).to(images)
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            yield probe
    finally:
        for module, mode in training.items():
            module.training = mode


@contextmanager
def watched(modules: dict[str, nn.Module], seen: Any) -> Iterator[None]:
    """Calls seen(name, module, input, output) whenever one of the modules has run."""

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, given: tuple, output: Any) -> None:
            if isinstance(output, Tensor):
                seen(name, module, given[0] if given else None, output)

        return hook

    handles = [module.register_forward_hook(hook_of(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_same(one: Tensor, other: Tensor, tolerance: float | None = None) -> bool:
    """Whether two tensors are equal but for rounding."""
    if one.shape != other.shape:
        return False
    tolerance = tolerance or SAME.get(other.dtype, SAME_HALF)
    difference = (one.float() - other.float()).abs().max()
    return bool(difference <= tolerance * other.float().abs().max())
