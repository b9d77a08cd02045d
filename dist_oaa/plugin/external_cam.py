"""Maps of another method in the place of OnlineCAM, for classifiers without a linear path.

Legend: B images, 3 colours, C classes, P (image, target class) pairs, h x w cells of a map.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from dist_oaa.config.errors import UserError
from dist_oaa.plugin.finding import logits_of
from dist_oaa.plugin.online_cam import unwrapped

MapMethod = Callable[[Tensor, list[int]], Tensor | np.ndarray]


class ExternalCAM(nn.Module):
    """Scores of a model, with maps of any method: `logits, cam = ExternalCAM(model, maps)(x, y)`.

        gradcam = pytorch_grad_cam.GradCAM(model, [model.layer4])

        def maps(images, classes):
            return gradcam(images, [ClassifierOutputTarget(c) for c in classes])

        source = ExternalCAM(model, maps)

    The method is called once a batch, with each image as often as it has target classes. While it
    runs, the model is in evaluation mode, and the gradients that it leaves are taken away again.
    Only target classes get a map, so the gate `contest`, which compares classes, is not for it.

    Args:
        model: gives the scores, also wrapped in DDP.
        maps: takes (P, 3, H, W) images and P class indices to (P, h, w) maps, larger meaning more.
    """

    def __init__(self, model: nn.Module, maps: MapMethod) -> None:
        super().__init__()
        self.model, self.maps = model, maps

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and maps.

        Args:
            images: (B, 3, H, W), normalised as the model wants them.
            labels: (B, C) of 0 and 1, or (B,) class indices.

        Returns:
            logits (B, C), as the model gives them, and maps (B, C, h, w), 0 but for the target
            classes.

        Raises:
            UserError: when the labels do not fit the scores, or the method gives something else
                than a map for each pair.
        """
        logits_BC = logits_of(self.model(images))
        if labels.ndim == 1:
            labels = nn.functional.one_hot(labels.long(), logits_BC.shape[1])
        if labels.shape != logits_BC.shape:
            raise UserError(
                f"labels have shape {tuple(labels.shape)}, expected {tuple(logits_BC.shape)} like "
                "the scores"
            )
        image_P, class_P = labels.to(images.device).nonzero(as_tuple=True)
        if len(image_P) == 0:
            return logits_BC, images.new_zeros((*logits_BC.shape, 1, 1))
        with undisturbed(unwrapped(self.model)):
            found = self.maps(images.detach()[image_P], class_P.tolist())
        maps_Phw = torch.as_tensor(found).detach().to(images.device)
        if maps_Phw.ndim != 3 or len(maps_Phw) != len(image_P):
            raise UserError(
                f"the method gives maps of shape {tuple(maps_Phw.shape)}, expected "
                f"({len(image_P)}, h, w) for {len(image_P)} images and classes"
            )
        cam_BChw = maps_Phw.new_zeros((*logits_BC.shape, *maps_Phw.shape[1:]))
        cam_BChw[image_P, class_P] = maps_Phw
        return logits_BC, cam_BChw


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, whose modes and gradients are as before afterwards."""
    training = {module: module.training for module in model.modules()}
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    for parameter in gradients:
        parameter.grad = None
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
