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
from dist_oaa.models.classifier import Erasing, Prediction, valid_cells
from dist_oaa.models.losses import log_odds, prediction_loss_B
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.plan import Position
from dist_oaa.runtime.trainable import Trainable
from dist_oaa.stages.classifying.branching import SecondBranch
from dist_oaa.stages.classifying.dropping import DropLayer
from dist_oaa.stages.classifying.rows_before import RowsBefore
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

    broken_counter = "broken"

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
        self.branch = SecondBranch(config.model)
        self.before: list[RowsBefore] = []
        outcome = ("pairs", "accepted", "fallback", "broken")
        self.counters = (*outcome, *self.branch.counters, *DropLayer.counters)

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """This rank's batches of an epoch, from a step on."""
        self.drop.examples.clear()
        return super().batches(epoch, first_step)

    def before_step(self, step: int, total_steps: int) -> float:
        """Sets the learning rate of the step."""
        self.before.clear()
        return super().before_step(step, total_steps)

    def forget_step(self) -> None:
        """Gives the maps of the step's pairs back what they were before it."""
        while self.before:  # the latest first: with micro-batches the oldest has the last word
            self.before.pop().restore()

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
        chance_B = self._chances(batch.ids, epoch).to(device, non_blocking=True)
        erasing = Erasing(labels_BC, chance_B, self.branch.learns(epoch))
        with autocast(self.config.optim, device):
            predicted = self.trainable.wrapped(
                dropped.images_B3HW, extent_B2, dropped.features_BHW, erasing
            )
        cam_BCHW = predicted.accumulated_BCHW.detach()
        seen = Observation(
            cam_BCHW,
            predicted.logits_BC.detach(),
            labels_BC,
            batch.geometry_B23.to(device, non_blocking=True),
            valid_cells(extent_B2, dropped.images_B3HW.shape[-2:], cam_BCHW.shape[-2:]),
            pairs,
        )
        outcome = self._accumulate(seen, epoch)
        loss_B, branch_counts = self._loss(predicted, seen, epoch)
        # One transfer for all counts: each would wait for the device.
        flags_3 = outcome.flags_3P.sum(dim=1)
        counts = torch.stack([count.double() for count in (*flags_3, *branch_counts)])
        return loss_B.sum(), [float(len(pairs)), *counts.tolist(), *dropped.counts]

    def _loss(
        self, predicted: Prediction, seen: Observation, epoch: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The loss of each image, once its attention has joined the maps; F2's counts."""
        loss_B = prediction_loss_B(predicted, seen.labels_BC, self.config.model.labels)
        if not self.branch.exists:
            return loss_B, []
        weights = self.config.model.two_branch
        loss_B = weights.classification_weight * loss_B
        if not self.branch.learns(epoch):
            return loss_B, self.branch.nothing(loss_B.device)
        taught_B, counts = self.branch.loss_B(predicted.cam_BCHW, seen, self.accumulator.bank)
        return loss_B + weights.integral_weight * taught_B, counts

    def _accumulate(self, seen: Observation, epoch: int) -> Outcome:
        settings = self.config.accumulate
        if epoch >= settings.start_epoch:
            fallback = settings.fallback and epoch >= self.last_pass
            outcomes = []
            for kind, accumulator in self.accumulators.items():
                rules = dataclasses.replace(self.rules[kind], fallback=fallback)
                if self.config.optim.on_non_finite == "skip_batch":
                    self.before.append(RowsBefore.of(accumulator.bank, seen.pairs.row_P))
                outcomes.append(accumulator.update(self._scored(seen, rules.gate), rules))
            return outcomes[0]
        # Too early to accumulate; what the gate would have said is worth logging.
        logits_BC = self._scored(seen, settings.gate).logits_BC
        accept_BC = GATES[settings.gate](logits_BC.float(), seen.labels_BC, settings.tau)
        accepted_P = accept_BC[seen.pairs.image_P, seen.pairs.class_P]
        cam_PHW = seen.cam_BCHW[seen.pairs.image_P, seen.pairs.class_P]
        broken_P = ~torch.isfinite(cam_PHW).all(dim=2).all(dim=1)
        return Outcome.of(accepted_P & ~broken_P, torch.zeros_like(accepted_P), broken_P)

    def _scored(self, seen: Observation, gate: str) -> Observation:
        """The same with the scores that a gate compares.

        Only `prob` asks for a probability, which it takes for a sigmoid's; the others compare
        classes of one image, where the logits are in the softmax's order without its ties.
        """
        if gate != "prob" or self.config.model.labels == "multi":
            return seen
        return dataclasses.replace(seen, logits_BC=log_odds(seen.logits_BC, "single"))

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
        metrics |= self.branch.figures(totals) | self.drop.figures(totals)
        return metrics | self.measure(self, position)

    def snapshot(self, generation: int) -> Callable[[], None]:
        """Copies this rank's changed maps; the returned function writes the copies."""
        copies = [(each.store, each.snapshot()) for each in self.accumulators.values()]

        def write() -> None:
            for store, rows in copies:
                store.commit(generation, rows)

        return write
