"""A stand-in for Lightning 2 where it is not installed: what the callback and its example use.

The hooks and their order are those of lightning.pytorch: setup, restoring the checkpoint,
on_train_start, and in each epoch the batches, on_train_epoch_end, and a checkpoint whose callback
states are asked for on all ranks; on_exception where anything is raised.
"""

from pathlib import Path

import torch


class Callback:
    def setup(self, trainer, pl_module, stage): ...
    def on_train_start(self, trainer, pl_module): ...
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx): ...
    def on_train_epoch_end(self, trainer, pl_module): ...
    def on_train_end(self, trainer, pl_module): ...
    def on_exception(self, trainer, pl_module, exception): ...

    @property
    def state_key(self):
        return type(self).__qualname__

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict): ...


class LightningModule(torch.nn.Module):
    device = torch.device("cpu")


class Trainer:
    def __init__(self, max_epochs, default_root_dir, callbacks=(), **unused):
        self.max_epochs, self.callbacks = max_epochs, list(callbacks)
        self.folder, self.current_epoch = Path(default_root_dir), 0
        self.checkpoint_path = None

    def fit(self, model, train_dataloaders, ckpt_path=None):
        try:
            self._call("setup", model, "fit")
            optimizer = model.configure_optimizers()
            if ckpt_path is not None:
                self._restore(model, optimizer, ckpt_path)
            self._call("on_train_start", model)
            while self.current_epoch < self.max_epochs:
                self._epoch(model, optimizer, train_dataloaders)
                self.current_epoch += 1
            self._call("on_train_end", model)
        except BaseException as error:
            self._call("on_exception", model, error)
            raise

    def _epoch(self, model, optimizer, loader):
        sampler = getattr(loader.batch_sampler, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.current_epoch)
        model.train()
        for index, batch in enumerate(loader):
            output = model.training_step(batch, index)
            optimizer.zero_grad()
            output["loss"].backward()
            optimizer.step()
            output = {**output, "loss": output["loss"].detach()}
            self._call("on_train_batch_end", model, output, batch, index)
        self._call("on_train_epoch_end", model)
        self.checkpoint_path = self.folder / f"epoch={self.current_epoch}.ckpt"
        self.save_checkpoint(self.checkpoint_path, model, optimizer)

    def save_checkpoint(self, path, model, optimizer):
        states = {c.state_key: c.state_dict() for c in self.callbacks}
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {
                "epoch": self.current_epoch,
                "state_dict": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "callbacks": {key: state for key, state in states.items() if state},
            },
            path,
        )

    def _restore(self, model, optimizer, path):
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["state_dict"])
        optimizer.load_state_dict(saved["optimizer"])
        self.current_epoch = saved["epoch"] + 1
        for callback in self.callbacks:
            if callback.state_key in saved["callbacks"]:
                callback.load_state_dict(saved["callbacks"][callback.state_key])

    def _call(self, hook, *arguments):
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)
