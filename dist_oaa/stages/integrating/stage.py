"""Training the integral attention model: what `oaa integral` brings to the loop.

The network is that of `oaa classify` without its pooling and classification loss: q = sigmoid(F)
of each feature cell learns what the maps of an earlier run hold there (Eq. 6 to 9).

Legend: B images, C classes, H x W feature cells.
"""

from collections.abc import Callable

import torch

from dist_oaa.attention.targets import TargetMaps
from dist_oaa.config.integral import IntegralConfig
from dist_oaa.data.loader import Batch, BatchLoader
from dist_oaa.data.sampler import EpochOrder
from dist_oaa.models.classifier import valid_cells
from dist_oaa.models.integral_losses import integral_loss_B
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.plan import Position
from dist_oaa.runtime.trainable import Trainable
from dist_oaa.stages.training import autocast
from dist_oaa.stages.training_stage import TrainingStage

Measure = Callable[[Position], dict[str, float]]


class IntegralStage(TrainingStage):
    """One rank's part of the training; the loop's Stage. It has no store: snapshots are empty.

    Args:
        targets: the maps of the images that this rank visits.
        measure: called after each epoch, on all ranks; its numbers are logged.
    """

    counters = ("attended", "cells")

    def __init__(
        self,
        config: IntegralConfig,
        world: World,
        trainable: Trainable,
        loader: BatchLoader,
        order: EpochOrder,
        targets: TargetMaps,
        measure: Measure,
    ) -> None:
        super().__init__(config, world, trainable, loader, order)
        self.targets, self.measure = targets, measure

    def forward(self, batch: Batch, epoch: int) -> tuple[torch.Tensor, list[float]]:
        """Loss sum of a batch; counts the cells of its target classes and those in N+."""
        if len(batch) == 0:
            return self.empty_forward(), [0.0] * len(self.counters)
        self.seed_layers(epoch, batch.ids[0])
        device, settings = self.world.device, self.config.integral
        extent_B2 = batch.extent_B2.to(device, non_blocking=True)
        images_B3HW = self.images(batch, extent_B2)
        with autocast(self.config.optim, device):
            cam_BCHW = self.trainable.wrapped(images_B3HW, extent_B2).cam_BCHW
        shape = (cam_BCHW.shape[2], cam_BCHW.shape[3])
        wanted = self.targets.at(
            batch.index_B,
            batch.labels_BC,
            batch.geometry_B23.to(device, non_blocking=True),
            valid_cells(extent_B2, images_B3HW.shape[-2:], shape),
            shape,
        )
        loss_B = integral_loss_B(
            cam_BCHW,
            wanted.value_BCHW,
            wanted.counted_BCHW,
            settings.loss,
            settings.threshold,
            settings.normalise,
        )
        present_BCHW = wanted.counted_BCHW & (batch.labels_BC.to(device) > 0)[:, :, None, None]
        attended_BCHW = present_BCHW & (wanted.value_BCHW > settings.threshold)
        counts = torch.stack([attended_BCHW.sum(), present_BCHW.sum()])
        return loss_B.sum(), list(map(float, counts.tolist()))

    def shown(self, totals: dict[str, float]) -> dict[str, float]:
        """Running means of the epoch for the progress line."""
        return {"loss": totals["loss"] / max(1, totals["images"]), "attended": attended(totals)}

    def end_epoch(self, position: Position) -> dict[str, float]:
        """The epoch's own numbers, followed by the measurement on masks."""
        totals = position.totals
        metrics = {
            "train/epoch_loss": totals["loss"] / max(1, totals["images"]),
            "train/attended_cells": attended(totals),
            "train/skipped_images": float(len(position.skipped)),
        }
        return metrics | self.measure(position)


def attended(totals: dict[str, float]) -> float:
    """Share of N+ among the cells of the images' own classes."""
    return totals["attended"] / max(1, totals["cells"])
