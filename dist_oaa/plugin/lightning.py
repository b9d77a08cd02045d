"""A callback for Lightning (`pip install dist_oaa[lightning]`): attention accumulates as it trains.

class Classifier(LightningModule):
    def __init__(self):
        super().__init__()
        self.network = OnlineCAM(torchvision.models.resnet18(num_classes=20))

    def training_step(self, batch, batch_idx):
        images, labels, ids, geometry = batch
        logits, cam = self.network(images)
        loss = binary_cross_entropy_with_logits(logits, labels)
        return {"loss": loss, "logits": logits, "cam": cam, "ids": ids, "geometry": geometry}

Trainer(callbacks=[AccumulateAttention("store/", ids, labels_NC)])
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from dist_oaa.config.errors import UserError
from dist_oaa.plugin.accumulator import AttentionAccumulator

if TYPE_CHECKING:
    # Both names may be installed; as a type they are the same class.
    from lightning.pytorch import Callback
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError as error:
            raise UserError(
                "dist_oaa.plugin.lightning needs Lightning, which is not installed: "
                "pip install 'dist_oaa[lightning]'"
            ) from error

# What `open` takes too; the rest is written in the store.
OF_OPEN = ("gate", "tau", "rho", "softmax", "local_dir", "device")


class AccumulateAttention(Callback):
    """Accumulates what `training_step` returns, and commits the maps with each checkpoint.

    `training_step` returns a dict with "loss", "logits" (B, C), "cam" (B, C, H, W), "ids" and,
    where inputs are not whole images, "geometry" (B, 2, 3). Every checkpoint names the commit that
    belongs to it: `fit(ckpt_path=...)` goes on with the maps of its weights. The last two commits
    are kept, so that is the last checkpoint, or the one before.

    Under DDP, visit images with OwnershipBatchSampler and set `use_distributed_sampler=False`.

    Args:
        folder, image_ids, labels: as for AttentionAccumulator.create.
        start_epoch: first epoch, from 0, whose attention is accumulated.
        fallback: give a pair that no epoch accepted the attention of the last of `max_epochs`.
        options: further arguments of AttentionAccumulator.create, such as gate or map_size.

    Attributes:
        accumulator: while the training lasts; None before and after.
    """

    def __init__(
        self,
        folder: str | Path,
        image_ids: Sequence[str],
        labels: Tensor | np.ndarray | Sequence[Any],
        *,
        start_epoch: int = 1,
        fallback: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self._store = (folder, image_ids, labels)
        self._start_epoch, self._fallback, self._options = start_epoch, fallback, options
        self._generation: int | None = None
        self.accumulator: AttentionAccumulator | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Makes the store, or opens it as of the checkpoint; weights are restored by now."""
        options = {"device": pl_module.device} | self._options
        if self._generation is None:
            self.accumulator = AttentionAccumulator.create(*self._store, **options)
            return
        options = {key: value for key, value in options.items() if key in OF_OPEN}
        self.accumulator = AttentionAccumulator.open(
            self._store[0], generation=self._generation, **options
        )

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Accumulates a batch.

        Raises:
            UserError: when `training_step` does not return what is needed.
        """
        if self.accumulator is None or trainer.current_epoch < self._start_epoch:
            return
        needed = ("cam", "logits", "ids")
        if not isinstance(outputs, Mapping) or not all(key in outputs for key in needed):
            raise UserError(
                f"training_step of {type(pl_module).__name__} returns no {' or '.join(needed)}, "
                "expected a dict with 'loss', 'logits', 'cam', 'ids' and, if used, 'geometry'"
            )
        cam, logits, ids = (outputs[key] for key in needed)
        fallback = self._fallback and trainer.current_epoch + 1 == trainer.max_epochs
        self.accumulator.update(cam, logits, ids, outputs.get("geometry"), fallback=fallback)

    def state_dict(self) -> dict[str, Any]:
        """Called while a checkpoint is made, on all ranks: the maps are committed with it."""
        if self.accumulator is not None:
            self._generation = self.accumulator.commit()
        return {} if self._generation is None else {"generation": self._generation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called before the training starts, with what the checkpoint holds."""
        self._generation = state_dict.get("generation")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Commits the maps, with or without a checkpoint, and gives the store back."""
        if self.accumulator is not None:
            self._generation = self.accumulator.commit()
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Gives the store back; it stays as of the last checkpoint."""
        self._close()

    def _close(self) -> None:
        if self.accumulator is not None:
            self.accumulator.close()
            self.accumulator = None
