"""Training the segmentation network: what `oaa segment` brings to the loop.

Legend: B images, L label channels (background first), H x W pixels, h x w cells of the network.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from dist_oaa.config.segment import SegmentConfig
from dist_oaa.data.label_images import IGNORED, LabelledBatch
from dist_oaa.data.loader import BatchLoader
from dist_oaa.data.sampler import EpochOrder
from dist_oaa.models.segmentation.losses import segmentation_loss_B
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.plan import Position
from dist_oaa.runtime.trainable import Trainable
from dist_oaa.stages.training import autocast
from dist_oaa.stages.training_stage import TrainingStage

Measure = Callable[[Position], dict[str, float]]


class SegmentStage(TrainingStage):
    """One rank's part of the training; the loop's Stage. It has no store: snapshots are empty.

    Args:
        true_masks: share of the images that is trained on with its true mask, for the record.
        measure: called after each epoch, on all ranks; its numbers are logged.
    """

    counters = ("labelled", "pixels", "blank")

    def __init__(
        self,
        config: SegmentConfig,
        world: World,
        trainable: Trainable,
        loader: BatchLoader,
        order: EpochOrder,
        true_masks: float,
        measure: Measure,
    ) -> None:
        super().__init__(config, world, trainable, loader, order)
        self.true_masks, self.measure = true_masks, measure
        trainable.model.train()
        self.statistics = own_statistics(trainable.model) if world.size > 1 else []
        self.needs_two = any(
            isinstance(layer, _BatchNorm) and layer.training
            for layer in trainable.model.head.modules()
        )

    def check(self, batch: LabelledBatch) -> str | None:
        """Why the batch must stop the run, or None; a wrong label stops it in any case."""
        return batch.wrong[0] if batch.wrong else super().check(batch)

    def before_step(self, step: int, total_steps: int) -> float:
        """Sets the learning rate of the step."""
        share_statistics(self.statistics, self.world)
        return super().before_step(step, total_steps)

    def forward(self, batch: LabelledBatch, epoch: int) -> tuple[torch.Tensor, list[float]]:
        """Loss sum of a batch; counts labelled and all pixels, and images without any label.

        Such an image (all of a crop may be ignored) counts as one with a loss of 0, whatever the
        world size.
        """
        if len(batch) == 0:
            return self.empty_forward(), [0.0] * len(self.counters)
        self.seed_layers(epoch, batch.ids[0])
        device, settings = self.world.device, self.config.segment
        extent_B2 = batch.extent_B2.to(device, non_blocking=True)
        labels_BHW = batch.labels_BHW.to(device, non_blocking=True)
        images_B3HW = self.images(batch, extent_B2)
        if self.needs_two and len(batch) == 1:
            # Decoders that pool the image to one cell and normalise it refuse a single image (the
            # last of an epoch, say): its twin is ignored whole.
            images_B3HW = torch.cat([images_B3HW, images_B3HW])
            labels_BHW = torch.cat([labels_BHW, torch.full_like(labels_BHW, IGNORED)])
        with autocast(self.config.optim, device):
            logits_BLhw = self.trainable.wrapped(images_B3HW)
        loss_B = segmentation_loss_B(logits_BLhw, labels_BHW, settings.loss, settings.resize)
        labelled_B = (batch.labels_BHW != IGNORED).sum(dim=(1, 2))
        pixels = batch.extent_B2.prod(dim=1).sum()
        counts = [labelled_B.sum(), pixels, (labelled_B == 0).sum()]
        return loss_B.sum(), list(map(float, counts))

    def empty_forward(self) -> torch.Tensor:
        """A zero loss that reaches every parameter: a rank without images joins the all-reduce."""
        model = self.trainable.model
        side, was_training = 4 * model.stride, model.training
        synced = self.config.network.batch_norm == "sync" and self.world.size > 1
        # Synchronised batch norm waits for all ranks: this one joins with no image. Else one blank
        # image, in evaluation mode, so that it enters no running statistics.
        blank_B3HW = torch.zeros(0 if synced else 1, 3, side, side, device=self.world.device)
        model.train(synced)
        logits = self.trainable.wrapped(blank_B3HW)
        model.train(was_training)
        parts = [logits] if isinstance(logits, torch.Tensor) else logits
        return sum(part.float().sum() * 0.0 for part in parts)

    def shown(self, totals: dict[str, float]) -> dict[str, float]:
        """Running means of the epoch for the progress line."""
        return {"loss": totals["loss"] / max(1, totals["images"])}

    def end_epoch(self, position: Position) -> dict[str, float]:
        """The epoch's own numbers, followed by the measurement on the validation images."""
        share_statistics(self.statistics, self.world)
        totals = position.totals
        metrics = {
            "train/epoch_loss": totals["loss"] / max(1, totals["images"]),
            "train/labelled_pixels": totals["labelled"] / max(1, totals["pixels"]),
            "train/blank_crops": totals["blank"],
            "train/true_masks": self.true_masks,
            "train/skipped_images": float(len(position.skipped)),
        }
        return metrics | self.measure(position)

    def snapshot(self, generation: int) -> Callable[[], None]:
        """Nothing of its own to write; the statistics of all ranks become one."""
        share_statistics(self.statistics, self.world)
        return super().snapshot(generation)


def own_statistics(model: torch.nn.Module) -> list[torch.Tensor]:
    """Running statistics that each rank gathers from its own images: unsynchronised batch norm."""
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, _BatchNorm)
        and not isinstance(layer, torch.nn.SyncBatchNorm)
        and layer.training
        and layer.running_mean is not None
    ]
    return [tensor for layer in layers for tensor in (layer.running_mean, layer.running_var)]


def share_statistics(statistics: list[torch.Tensor], world: World) -> None:
    """Gives all ranks the mean of their running statistics.

    A running mean is linear in what it saw, so the ranks' mean is that of all images. Once more
    changes nothing, to the last bit (sums of equal float32 numbers are exact enough in float64),
    so it does not matter where checkpoints fall.
    """
    if not statistics:
        return
    flat = torch.cat([tensor.detach().flatten() for tensor in statistics]).double().cpu()
    mean = torch.from_numpy(world.sum(np.asarray(flat)) / world.size)
    parts = mean.split([tensor.numel() for tensor in statistics])
    for tensor, part in zip(statistics, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
