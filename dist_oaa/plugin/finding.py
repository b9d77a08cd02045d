"""The search for a classifier's linear path (linear_path.py): which layer, which head.

Legend: B images, C classes, D channels of the features, E channels of the head's input.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dist_oaa.config.errors import UserError
from dist_oaa.plugin.linear_path import (
    SAME_HEAD,
    Event,
    Head,
    LinearPath,
    as_map,
    is_same,
    layout_of,
    measuring,
    watched,
)

# The last maps before the head that are tried; inner layers give the same map as their block.
MOST_TRIED = 8


def logits_of(output: Any) -> Tensor:
    """The scores in a model's output: the tensor itself, its `logits`, or the first of several.

    Raises:
        UserError: when there are no (B, C) scores.
    """
    found = getattr(output, "logits", output)
    if isinstance(found, dict):
        found = found.get("logits")
    if isinstance(found, tuple | list) and found:
        found = found[0]
    if not isinstance(found, Tensor) or found.ndim != 2:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UserError(f"the model gives {shape}, expected (B, C) scores")
    return found


class Search:
    """Finds the path of a model for inputs like `images`.

    Args:
        model: without wrappers such as DDP.
        layer: the layer whose output is the feature map; None to look for it.
        images: (B, 3, H, W) of any content.
    """

    def __init__(self, model: nn.Module, layer: nn.Module | None, images: Tensor) -> None:
        self.model, self.layer = model, layer
        self.input_hw = (images.shape[-2], images.shape[-1])
        self.why = "it has no linear layer and no map that gives its scores"
        with measuring(model, images) as probe:
            self.probe = probe
            self.path = self._find()

    def _find(self) -> LinearPath | None:
        events: list[Event] = []

        def note(name: str, module: nn.Module, given: Any, output: Tensor) -> None:
            if output.ndim >= 2 and len(output) == len(self.probe):
                events.append(Event(name, module, tuple(output.shape)))

        with watched(dict(self.model.named_modules()), note):
            logits_BC = logits_of(self.model(self.probe))
        classes = logits_BC.shape[1]
        if not any(self._is_wanted(event) for event in events):
            self.why = "the layer that was named does not run, or gives no tensor"
            return None
        return self._class_map(events, classes) or self._pooled(events, classes)

    def _is_wanted(self, event: Event) -> bool:
        return self.layer is None or event.module is self.layer

    def _class_map(self, events: list[Event], classes: int) -> LinearPath | None:
        """A layer that gives the class activation map itself: its mean is the score."""
        for path in self._paths(events, {classes}, None, None):
            outputs, logits_BC = self._run(path)
            cam_BCHW = as_map(outputs["layer"], path.layout, self.model, self.input_hw)
            if cam_BCHW is not None and is_same(cam_BCHW.float().mean(dim=(2, 3)), logits_BC):
                return path
        return None

    def _pooled(self, events: list[Event], classes: int) -> LinearPath | None:
        """A linear head on the means of a layer's output."""
        place = next(
            (i for i in reversed(range(len(events))) if _is_head(events[i], classes)), None
        )
        if place is None:
            return None
        head, before = events[place].module, events[:place]
        assert isinstance(head, Head), "_is_head has said so"
        norm = next((m for m in _after_last_map(before) if isinstance(m, nn.LayerNorm)), None)
        channels = head.weight.shape[1]
        sizes = {channels} | {e.shape[2] for e in before if len(e.shape) == 3}
        sizes = {size for size in sizes if size <= channels}
        self.why = self._nothing(events[place].name, channels, before)
        paths = self._paths(before, sizes, head, norm)
        if paths:
            self.why = (
                f"{events[place].name!r} reads something else than the mean of the output of "
                f"{paths[0].name!r} (a class token, another pooling, or a layer between them)"
            )
        return next((path for path in paths if self._holds(path)), None)

    def _paths(
        self,
        events: list[Event],
        channels: set[int],
        head: Head | None,
        norm: nn.LayerNorm | None,
    ) -> list[LinearPath]:
        """The last events whose output could be the map, from the last on."""
        found = []
        for event in reversed(events):
            layout = layout_of(event.shape, channels)
            # The model itself and the like end after their head has run.
            is_part = self._is_wanted(event) and event.module is not self.model
            if layout is not None and is_part:
                found.append(LinearPath(event.module, event.name, layout, head, norm))
        return found[:MOST_TRIED]

    def _run(self, path: LinearPath) -> tuple[dict[str, Tensor], Tensor]:
        """What layer and head give and are given in another pass, and the scores."""
        seen: dict[str, Tensor] = {}

        def keep(name: str, module: nn.Module, given: Tensor, output: Tensor) -> None:
            seen[name] = output
            if name == "head":
                seen["input"] = given.flatten(1)

        modules = {"layer": path.layer} | ({"head": path.head} if path.head is not None else {})
        with watched(modules, keep):
            logits_BC = logits_of(self.model(self.probe))
        return seen, logits_BC

    def _holds(self, path: LinearPath) -> bool:
        """Whether the head is given the means of the layer's output, and its answer is the score.

        The head's input is compared and not only the scores: a head that is still zero gives the
        same scores for whatever it reads.
        """
        seen, logits_BC = self._run(path)
        features_BDHW = as_map(seen["layer"], path.layout, self.model, self.input_hw)
        if features_BDHW is None or not is_same(seen["head"].flatten(1), logits_BC):
            return False
        given_BE = seen["input"]
        mine_BD = path.head_input_from(features_BDHW)
        if not is_same(mine_BD, given_BE[:, given_BE.shape[1] - mine_BD.shape[1] :]):
            return False
        cam_BCHW = path.class_maps(features_BDHW, given_BE)
        return is_same(cam_BCHW.float().mean(dim=(2, 3)), logits_BC, SAME_HEAD)

    def _nothing(self, head: str, channels: int, before: list[Event]) -> str:
        cell = any(e.shape[1:] == (channels, 1, 1) for e in before)
        why = f"no feature map of {channels} channels comes before the linear layer {head!r}"
        height, width = self.input_hw
        return why + (
            f" for inputs of {height} x {width} pixels, or it is one cell" if cell else ""
        )


def _is_head(event: Event, classes: int) -> bool:
    is_linear = isinstance(event.module, nn.Linear)
    if isinstance(event.module, nn.Conv2d):
        is_linear = tuple(event.module.kernel_size) == (1, 1) and event.module.groups == 1
    return is_linear and event.shape[1:] in ((classes,), (classes, 1, 1))


def _after_last_map(events: list[Event]) -> list[nn.Module]:
    """The modules that ran on means, after the last map and before the head, from the last on."""
    found = []
    for event in reversed(events):
        cells = event.shape[2:] if len(event.shape) == 4 else event.shape[1:-1]
        if torch.Size(cells).numel() > 1:
            break
        found.append(event.module)
    return found
