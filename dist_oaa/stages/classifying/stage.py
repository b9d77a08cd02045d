"""Training a classifier while its attention accumulates: what `oaa classify` brings to the loop.

Legend: B images, C classes, P pairs of (image, target class).
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch

from dist_oaa.attention.accumulator import AttentionAccumulator
from dist_oaa.attention.batch import Observation, Outcome, Rules
from dist_oaa.attention.gates import GATES
from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.data.augment import stateless_rng
from dist_oaa.data.loader import Batch, BatchLoader
from dist_oaa.data.sampler import EpochOrder
from dist_oaa.models.classifier import Erasing, valid_cells
from dist_oaa.models.losses import prediction_loss_B
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.loop import Position, Trainable
from dist_oaa.stages.classifying.dropping import DropLayer
from dist_oaa.stages.training import autocast
from dist_oaa.stages.training_stage import TrainingStage

Measure = Callable[["ClassifyStage", Position], dict[str, float]]


class ClassifyStage(TrainingStage):
    """One rank's part of the training; the loop's Stage.

    Args:
        accumulators: by the kind of map; the first is the run's own, whose A_{t-1} the drop layer
            reads, the others accumulate the same attention by other rules.
        rules: by the same kinds.
        measure: called after each epoch, on all ranks; its numbers are logged.
        last_pass: first epoch of the last pass over the images, where the fallback applies.
    """

    counters = ("pairs", "accepted", "fallback", "broken", *DropLayer.counters)

    def __init__(
        self,
        config: ClassifyConfig,
        world: World,
        trainable: Trainable,
        loader: BatchLoader,
        order: EpochOrder,
        accumulators: dict[str, AttentionAccumulator],
        rules: dict[str, Rules],
        measure: Measure,
        last_pass: int,
    ) -> None:
        super().__init__(config, world, trainable, loader, order)
        self.accumulators, self.rules = accumulators, rules
        self.accumulator = next(iter(accumulators.values()))
        self.measure, self.last_pass = measure, last_pass
        self.drop = DropLayer(config.drop, config.seed, keeps_examples=world.is_first)

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """This rank's batches of an epoch, from a step on."""
        self.drop.examples.clear()
        return super().batches(epoch, first_step)

    def forward(self, batch: Batch, epoch: int) -> tuple[torch.Tensor, list[float]]:
        """Loss sum of a batch; its attention joins the maps."""
        if len(batch) == 0:
            return self.empty_forward(), [0.0] * len(self.counters)
        self.seed_layers(epoch, batch.ids[0])
        device = self.world.device
        extent_B2 = batch.extent_B2.to(device, non_blocking=True)
        labels_BC = batch.labels_BC.to(device, non_blocking=True)
        pairs = self.accumulator.pairs(batch.index_B, batch.labels_BC).to(device)
        dropped = self.drop(
            batch,
            epoch,
            self.images(batch, extent_B2),
            extent_B2,
            pairs,
            self.accumulator.bank,
            self.trainable.model,
        )
        erasing = Erasing(labels_BC, self._chances(batch.ids, epoch).to(device, non_blocking=True))
        with autocast(self.config.optim, device):
            predicted = self.trainable.wrapped(
                dropped.images_B3HW, extent_B2, dropped.features_BHW, erasing
            )
        loss = prediction_loss_B(predicted, labels_BC).sum()
        cam_BCHW = predicted.cam_BCHW.detach()
        seen = Observation(
            cam_BCHW,
            predicted.logits_BC.detach(),
            labels_BC,
            batch.geometry_B23.to(device, non_blocking=True),
            valid_cells(extent_B2, dropped.images_B3HW.shape[-2:], cam_BCHW.shape[-2:]),
            pairs,
        )
        outcome = self._accumulate(seen, epoch)
        counts = torch.stack(
            [outcome.accepted_P.sum(), outcome.fallback_P.sum(), outcome.broken_P.sum()]
        )
        return loss, [float(len(pairs)), *map(float, counts.tolist()), *dropped.counts]

    def _accumulate(self, seen: Observation, epoch: int) -> Outcome:
        settings = self.config.accumulate
        if epoch >= settings.start_epoch:
            fallback = settings.fallback and epoch >= self.last_pass
            outcomes = [
                accumulator.update(seen, dataclasses.replace(self.rules[kind], fallback=fallback))
                for kind, accumulator in self.accumulators.items()
            ]
            return outcomes[0]
        # Too early to accumulate; what the gate would have said is worth logging.
        accept_BC = GATES[settings.gate](seen.logits_BC.float(), seen.labels_BC, settings.tau)
        accepted_P = accept_BC[seen.pairs.image_P, seen.pairs.class_P]
        nothing_P = torch.zeros_like(accepted_P)
        return Outcome.of(accepted_P, nothing_P, nothing_P)

    def _chances(self, ids: list[str], epoch: int) -> torch.Tensor:
        """One number from [0, 1) for each image, for networks that erase at random."""
        drawn = [stateless_rng(self.config.seed, epoch, name, "erase").random() for name in ids]
        return torch.tensor(drawn, dtype=torch.float32)

    def shown(self, totals: dict[str, float]) -> dict[str, float]:
        """Running means of the epoch for the progress line."""
        images, pairs = max(1, totals["images"]), max(1, totals["pairs"])
        return {"loss": totals["loss"] / images, "accept": totals["accepted"] / pairs}

    def end_epoch(self, position: Position) -> dict[str, float]:
        """The epoch's own numbers, followed by the measurement on masks."""
        totals, bank = position.totals, self.accumulator.bank
        covered = np.array([int((bank.accepted_R > 0).sum()), int(bank.fallback_R.sum())])
        covered, fallen = self.world.sum(covered.astype(np.int64)).tolist()
        pairs = max(1, self.accumulator.store.manifest.pairs)
        metrics = {
            "train/epoch_loss": totals["loss"] / max(1, totals["images"]),
            "accept_rate": totals["accepted"] / max(1, totals["pairs"]),
            "pairs/coverage": covered / pairs,
            "pairs/fallback": fallen / pairs,
            "pairs/broken": totals["broken"],
            "train/skipped_images": float(len(position.skipped)),
        }
        return metrics | self.drop.figures(totals) | self.measure(self, position)

    def snapshot(self, generation: int) -> Callable[[], None]:
        """Copies this rank's changed maps; the returned function writes the copies."""
        copies = [(each.store, each.snapshot()) for each in self.accumulators.values()]

        def write() -> None:
            for store, rows in copies:
                store.commit(generation, rows)

        return write
