"""The second branch of the network `two_branch` within `oaa classify`: its loss and its figures.

Legend: B images, C classes, H x W feature cells.
"""

import torch

from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Observation
from dist_oaa.attention.targets import resident_targets
from dist_oaa.config.model import ModelConfig
from dist_oaa.models.integral_losses import integral_loss_B


class SecondBranch:
    """Teaches F2 the cumulative maps of F1, as they are right after the step's attention.

    Of any other network nothing is counted or said here.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.settings = config.two_branch
        self.exists = config.variant == "two_branch"
        names = ("taught_images", "branch_loss", "attended", "cells")
        self.counters: tuple[str, ...] = names if self.exists else ()

    def learns(self, epoch: int) -> bool:
        """Whether F2 is trained in this epoch."""
        return self.exists and epoch >= self.settings.start_epoch

    def loss_B(
        self, cam_BCHW: torch.Tensor, seen: Observation, bank: MapBank
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The unweighted loss of each image, and the counts of `counters` as scalars on the device.

        Args:
            cam_BCHW: F2's maps, raw.
            seen: what F1's maps of the same batch are of.
            bank: the maps that F1 accumulates; they are read and never touched.
        """
        shape = (cam_BCHW.shape[2], cam_BCHW.shape[3])
        wanted = resident_targets(
            bank, seen.pairs, cam_BCHW.shape[1], seen.geometry_B23, seen.cells_B2, shape
        )
        settings = self.settings
        loss_B = integral_loss_B(
            cam_BCHW,
            wanted.value_BCHW,
            wanted.counted_BCHW,
            settings.loss,
            settings.threshold,
            settings.normalise,
        )
        present_BCHW = wanted.counted_BCHW & (seen.labels_BC > 0)[:, :, None, None]
        attended_BCHW = present_BCHW & (wanted.value_BCHW > settings.threshold)
        images = torch.full((), len(cam_BCHW), device=cam_BCHW.device)
        counts = [images, loss_B.detach().sum(), attended_BCHW.sum(), present_BCHW.sum()]
        return loss_B, counts

    def nothing(self, device: torch.device) -> list[torch.Tensor]:
        """The counts of a batch from which F2 does not learn."""
        return [torch.zeros((), device=device) for _ in self.counters]

    def figures(self, totals: dict[str, float]) -> dict[str, float]:
        """Of an epoch in which F2 learnt: its loss, and the share of N+ among the cells of the
        images' own classes."""
        if not totals.get("taught_images"):
            return {}
        return {
            "train/branch_loss": totals["branch_loss"] / totals["taught_images"],
            "train/attended_cells": totals["attended"] / max(1, totals["cells"]),
        }
