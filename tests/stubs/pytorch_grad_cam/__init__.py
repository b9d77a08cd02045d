"""A stand-in for pytorch-grad-cam where it is not installed: the same call, plain Grad-CAM."""

import numpy as np
import torch


class GradCAM:
    def __init__(self, model, target_layers):
        self.model = model.eval()
        self.layer = target_layers[-1]

    def __call__(self, input_tensor, targets):
        kept = []

        def keep(module, given, output):
            output.retain_grad()
            kept.append(output)

        handle = self.layer.register_forward_hook(keep)
        outputs = self.model(input_tensor)
        handle.remove()
        self.model.zero_grad()
        sum(target(output) for target, output in zip(targets, outputs, strict=True)).backward()
        weights = kept[0].grad.mean((2, 3), keepdim=True)
        cam = torch.relu((weights * kept[0]).sum(1, keepdim=True)).detach()
        size = input_tensor.shape[-2:]
        return np.asarray(torch.nn.functional.interpolate(cam, size, mode="bilinear")[:, 0])
