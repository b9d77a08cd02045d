"""Optimiser, parameter groups and learning-rate schedules.

A rate is a pure function of the step, so a resumed run continues with the very same rates.
"""

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from dist_oaa.config.model import OptimConfig

GROUPS = ("trunk.weight", "trunk.bias", "head.weight", "head.bias")
WRAPPERS = ("module.", "_orig_mod.")
WARMUP_START = 0.1


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """sgd or adamw over the groups of GROUPS; each names itself and keeps its `multiplier`.

    Parameters that need no gradient and groups without parameters are left out. Biases get the
    weight decay only where `optim.decay_biases` says so.

    Args:
        model: with the parts `trunk` and others (the head), bare, compiled or wrapped by DDP.
    """
    parameters: dict[str, list[nn.Parameter]] = {name: [] for name in GROUPS}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameters[group_of(name)].append(parameter)
    groups = [
        {
            "params": parameters[name],
            "name": name,
            "multiplier": multiplier,
            "lr": config.lr * multiplier,
            "weight_decay": decay_of(name, config),
        }
        for name, multiplier in zip(GROUPS, config.multipliers, strict=True)
        if parameters[name]
    ]
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.lr)
    return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def group_of(parameter: str) -> str:
    """Which of GROUPS a parameter belongs to, by its name in the model."""
    while prefix := next((p for p in WRAPPERS if parameter.startswith(p)), None):
        parameter = parameter.removeprefix(prefix)
    part = "trunk" if parameter.startswith("trunk.") else "head"
    return f"{part}.bias" if parameter.endswith(".bias") else f"{part}.weight"


def decay_of(group: str, config: OptimConfig) -> float:
    """The weight decay of one of GROUPS."""
    return config.weight_decay if config.decay_biases or group.endswith(".weight") else 0.0


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """The base rate of one optimiser step; a group's rate is this times its multiplier.

    constant: lr. step: lr / 10 for each milestone m with step >= round(m * total_steps).
    poly: lr * (1 - step / total_steps) ** power. During the first `warmup_steps` this is scaled
    by a factor that rises linearly from a tenth to 1.

    Args:
        step: number of the step, from 0.
        total_steps: steps of the whole training; from there on, poly gives 0.
    """
    rate = config.lr
    if config.schedule == "step":
        passed = sum(step >= round(share * total_steps) for share in config.milestones)
        rate /= 10**passed
    elif config.schedule == "poly":
        rate *= max(0.0, 1 - step / total_steps) ** config.power
    if step < config.warmup_steps:
        rate *= WARMUP_START + (1 - WARMUP_START) * step / config.warmup_steps
    return rate


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every group of `build_optimizer` its rate: the base rate times its multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]
