"""What training stages have in common: the loop, batches, rates, precision, empty ranks.

Legend: B images.
"""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.model import OptimConfig
from dist_oaa.config.run import CheckpointConfig, RuntimeConfig
from dist_oaa.data.loader import Batch, BatchLoader, check_bad_images
from dist_oaa.data.sampler import EpochOrder
from dist_oaa.data.virtual import VirtualBatches, load_virtual
from dist_oaa.models.optimisation import learning_rate, set_learning_rate
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.loop import Loop
from dist_oaa.runtime.plan import Plan, Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.runtime.trainable import Trainable


class TrainingConfig(Protocol):
    """The settings that every training stage has."""

    run_dir: str
    seed: int
    data: DataConfig
    optim: OptimConfig
    checkpoint: CheckpointConfig
    runtime: RuntimeConfig


class TrainingStage:
    """One rank's part of a training; a stage adds the forward pass and the end of an epoch."""

    broken_counter = ""

    def __init__(
        self,
        config: TrainingConfig,
        world: World,
        trainable: Trainable,
        loader: BatchLoader,
        order: EpochOrder,
    ) -> None:
        self.config, self.world, self.trainable = config, world, trainable
        self.loader, self.order = loader, order

    def train(
        self,
        plan: Plan,
        position: Position,
        stop: StopFlag,
        reporter: Reporter,
        tracker: Tracker | None,
        save_before_end: bool = False,
    ) -> dict[str, float]:
        """Trains from a position to the end and returns the last measurements.

        Raises:
            UserError, RunError, Interrupted: see Loop.run; the same on every rank.
        """
        config = self.config
        loop = Loop(
            world=self.world,
            stage=self,
            trainable=self.trainable,
            plan=plan,
            optim=config.optim,
            run_dir=Path(config.run_dir),
            checkpoints=config.checkpoint,
            stop=stop,
            reporter=reporter,
            tracker=tracker,
            log_every=config.runtime.log_every,
            position=position,
            save_before_end=save_before_end,
        )
        return loop.run()

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch | VirtualBatches]:
        """This rank's batches of an epoch, from a step on."""
        self.trainable.model.train()
        size, world = self.config.optim.batch_size, self.world
        if self.config.optim.exact_elastic:
            steps = self.order.virtual_batches(epoch, size, world.rank, world.size, first_step)
            return load_virtual(self.loader, steps, epoch)
        parts = self.order.batches(epoch, size, world.rank, world.size, first_step)
        return self.loader.load(parts, epoch)

    def check(self, batch: Batch) -> str | None:
        """Why the batch must stop the run, or None."""
        try:
            check_bad_images(batch.bad, self.config.data.on_bad_image)
        except UserError as error:
            return str(error)
        return None

    def before_step(self, step: int, total_steps: int) -> float:
        """Sets the learning rate of the step."""
        rate = learning_rate(self.config.optim, step, total_steps)
        set_learning_rate(self.trainable.optimizer, rate)
        return rate

    def forget_step(self) -> None:
        """For a stage with no store of its own: there is nothing to take back."""

    def images(self, batch: Batch, extent_B2: torch.Tensor) -> torch.Tensor:
        """Normalised images on the device, in the memory order that the model wants."""
        images = batch.images_B3HW.to(self.world.device, non_blocking=True)
        images = self.trainable.model.normalisation.apply(images, extent_B2)
        if self.config.optim.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def empty_forward(self) -> torch.Tensor:
        """A zero loss that reaches every parameter: a rank without images joins the all-reduce."""
        model, side = self.trainable.model, 4 * self.trainable.model.trunk.stride
        was_training = model.training
        model.eval()  # a blank image must not enter any running statistics
        predicted = self.trainable.wrapped(
            torch.zeros(1, 3, side, side, device=self.world.device), None
        )
        model.train(was_training)
        return predicted.logits_BC.sum() * 0.0

    def seed_layers(self, epoch: int, image_id: str) -> None:
        """Fixes what layers that draw random numbers (dropout) will draw in this step.

        A function of this alone, not of how many numbers an earlier, perhaps resumed, process
        has drawn.
        """
        torch.manual_seed(zlib.crc32(f"{self.config.seed}/{epoch}/{image_id}".encode()))

    def snapshot(self, generation: int) -> Callable[[], None]:
        """For a stage with no store of its own: there is nothing to copy or write."""
        return lambda: None
