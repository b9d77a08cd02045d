"""What all training stages share: images in the order of their names, a network made ready to
train, and a position to go on from."""

import dataclasses
import platform
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from dist_oaa.config.errors import UserError, in_one_line
from dist_oaa.config.model import OptimConfig
from dist_oaa.data.sample import ImageSet
from dist_oaa.models.optimisation import build_optimizer
from dist_oaa.runtime.checkpoint import Checkpoint, load_checkpoint
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.exact_step import ExactStep
from dist_oaa.runtime.plan import Position
from dist_oaa.runtime.trainable import Trainable

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def in_name_order(image_set: ImageSet) -> ImageSet:
    """The same images, numbered as a store's table numbers them."""
    return dataclasses.replace(
        image_set, samples=tuple(sorted(image_set.samples, key=lambda sample: sample.id))
    )


def autocast(config: OptimConfig, device: torch.device) -> torch.autocast:
    """The precision of the forward pass."""
    dtype = AUTOCAST.get(config.precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def make_trainable(model: torch.nn.Module, config: OptimConfig, world: World) -> Trainable:
    """Moves a network to the device and wraps it for the world.

    Raises:
        UserError: when fp16 is asked for on a CPU, or batch norm that gathers statistics with
            optim.exact_elastic.
    """
    if config.precision == "fp16" and world.device.type == "cpu":
        raise UserError("optim.precision is fp16, which needs a GPU; use bf16 or fp32 on a CPU")
    model.to(world.device)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config)
    wrapped = torch.compile(model) if config.compile else model
    exact = make_exact(model, config, world) if config.exact_elastic else None
    if world.size > 1 and exact is None:
        wrapped = DistributedDataParallel(
            wrapped,
            device_ids=[world.device.index] if world.device.type == "cuda" else None,
            # Buffers (batch-norm statistics) are frozen, or averaged by their own layers.
            forward_sync_buffers=False,
            # Also keeps DDP from re-ordering its buckets after the first step: sums over three
            # or more ranks depend on the layout, and a resumed run must repeat them bit for bit.
            find_unused_parameters=True,
        )
    scaler = torch.amp.GradScaler(world.device.type, enabled=config.precision == "fp16")
    return Trainable(model, wrapped, optimizer, scaler, exact)


def make_exact(model: torch.nn.Module, config: OptimConfig, world: World) -> ExactStep:
    """What takes the place of DDP with `optim.exact_elastic`.

    Raises:
        UserError: when the network has batch norm whose statistics are those of a batch.
    """
    for name, layer in model.train().named_modules():
        if isinstance(layer, _BatchNorm) and layer.training:
            raise UserError(
                f"optim.exact_elastic is true, but the network's batch norm {name} gathers "
                "statistics of its batch; expected model.freeze_batch_norm true (or "
                "network.batch_norm frozen) and a head without batch norm"
            )
    if world.size > 1:
        for tensor in model.state_dict().values():  # all begin as rank 0, as they do under DDP
            dist.broadcast(tensor, 0)
    return ExactStep(world, model, config.virtual_batches)


def restore(trainable: Trainable, run_dir: Path) -> tuple[Checkpoint, Position]:
    """Loads the published checkpoint of a run into a network and its optimiser.

    Raises:
        UserError: when there is none, it is damaged, or it is of another network.
    """
    checkpoint = load_checkpoint(run_dir / "checkpoints")
    try:
        trainable.model.load_state_dict(checkpoint.model)
        trainable.optimizer.load_state_dict(checkpoint.optimizer)
    except (RuntimeError, ValueError) as error:
        reason = in_one_line(error)
        raise UserError(
            f"the checkpoint of {run_dir} does not fit this model or optimiser; resume with the "
            f"settings in {run_dir / 'config.yaml'} ({reason})"
        ) from error
    state = dict(checkpoint.state)
    scaler_state = state.pop("scaler")
    if scaler_state:
        trainable.scaler.load_state_dict(scaler_state)
    return checkpoint, Position(**state)


def machine(world: World) -> str:
    """One phrase for the hardware of a run."""
    kind = platform.machine()
    if world.device.type == "cuda":
        kind = torch.cuda.get_device_name(world.device)
    ranks = "1 process" if world.size == 1 else f"{world.size} processes"
    return f"{ranks} on {world.device.type} ({kind}, {torch.get_num_threads()} threads each)"
