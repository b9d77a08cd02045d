"""A stand-in for torchcam where it is not installed: the same call, plain Grad-CAM."""

import torch


class GradCAM:
    def __init__(self, model, target_layer):
        self.kept = None
        target_layer.register_forward_hook(self._keep)

    def _keep(self, module, given, output):
        self.kept = output

    def __call__(self, class_idx, scores):
        total = sum(score[c] for score, c in zip(scores, class_idx, strict=True))
        (gradient,) = torch.autograd.grad(total, self.kept)
        weights = gradient.mean((2, 3), keepdim=True)
        return [torch.relu((weights * self.kept).sum(1)).detach()]
