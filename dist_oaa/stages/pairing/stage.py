"""Training the affinity network: what `oaa affinity` brings to the loop.

Legend: B images, D channels, h x w cells.
"""

import math
from collections.abc import Callable

import torch

from dist_oaa.config.affinity import AffinityConfig
from dist_oaa.data.affinity_labels import CellBatch
from dist_oaa.data.loader import BatchLoader
from dist_oaa.data.sampler import EpochOrder
from dist_oaa.models.affinity_losses import affinity_loss
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.plan import Position
from dist_oaa.runtime.trainable import Trainable
from dist_oaa.stages.training import autocast
from dist_oaa.stages.training_stage import TrainingStage

Draw = Callable[[Position], None]

PAIRS = ("background", "object", "across")
"""Kinds of pairs as metrics name them, in the order of affinity_losses.KINDS."""


class PairStage(TrainingStage):
    """One rank's part of the training; the loop's Stage. It has no store: snapshots are empty.

    Args:
        draw: called after each epoch, on all ranks.
    """

    counters = (*(f"{kind}_pairs" for kind in PAIRS), *(f"{kind}_affinity" for kind in PAIRS))

    def __init__(
        self,
        config: AffinityConfig,
        world: World,
        trainable: Trainable,
        loader: BatchLoader,
        order: EpochOrder,
        draw: Draw,
    ) -> None:
        super().__init__(config, world, trainable, loader, order)
        self.draw = draw

    def check(self, batch: CellBatch) -> str | None:
        """Why the batch must stop the run, or None: label images that cannot be right always do."""
        return batch.wrong[0] if batch.wrong else super().check(batch)

    def forward(self, batch: CellBatch, epoch: int) -> tuple[torch.Tensor, list[float]]:
        """Loss sum of a batch; counts its pairs of each kind and sums their affinities."""
        if len(batch) == 0:
            return self.empty_forward(), [0.0] * len(self.counters)
        self.seed_layers(epoch, batch.ids[0])
        device = self.world.device
        images_B3HW = self.images(batch, batch.extent_B2.to(device, non_blocking=True))
        cells_Bhw = batch.cells_Bhw.to(device, non_blocking=True)
        with autocast(self.config.optim, device):
            features_BDhw = self.trainable.wrapped(images_B3HW)
        found = affinity_loss(features_BDhw, cells_Bhw, self.config.affinity.radius)
        counts = torch.cat([found.pairs_3.double(), found.affinity_3])
        return found.loss_B.sum(), counts.tolist()

    def empty_forward(self) -> torch.Tensor:
        """A zero loss that reaches every parameter: a rank without images joins the all-reduce."""
        model = self.trainable.model
        was_training, side = model.training, 2 * model.multiple
        model.eval()  # a blank image must not enter any running statistics
        features = self.trainable.wrapped(torch.zeros(1, 3, side, side, device=self.world.device))
        model.train(was_training)
        return features.sum() * 0.0

    def shown(self, totals: dict[str, float]) -> dict[str, float]:
        """Running means of the epoch for the progress line."""
        values = {"loss": totals["loss"] / max(1, totals["images"])}
        return values | {kind: affinity(totals, kind) for kind in PAIRS}

    def end_epoch(self, position: Position) -> dict[str, float]:
        """The epoch's own numbers: loss, and the mean affinity of each kind of pair."""
        totals = position.totals
        metrics = {
            "train/epoch_loss": totals["loss"] / max(1, totals["images"]),
            "train/skipped_images": float(len(position.skipped)),
            "train/pairs_per_image": sum(totals[f"{kind}_pairs"] for kind in PAIRS)
            / max(1, totals["images"]),
        }
        self.draw(position)
        return metrics | {f"affinity/{kind}": affinity(totals, kind) for kind in PAIRS}


def affinity(totals: dict[str, float], kind: str) -> float:
    """Mean affinity of one kind of pair, 0 to 1; nan where there was none."""
    pairs = totals[f"{kind}_pairs"]
    return totals[f"{kind}_affinity"] / pairs if pairs else math.nan
