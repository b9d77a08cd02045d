"""The trunk of a trained classifier as the beginning of another network."""

from pathlib import Path

from torch import nn

from dist_oaa.config.errors import UserError
from dist_oaa.stages.trained import load_classifier


def take_trunk(trunk: nn.Module, init: str, group: str, backbone: str, normalise: str) -> str:
    """Copies the trunk of a run's classifier into a network's trunk.

    Args:
        trunk: receives the weights.
        init: run directory of `oaa classify` or `oaa integral`.
        group: of the settings that say `init`, such as "affinity", for messages.
        backbone, normalise: those of the network that is built.

    Returns:
        a phrase about where the weights come from.

    Raises:
        UserError: when there is no such run, or its trunk is another one or not as deep.
    """
    trained = load_classifier(Path(init))
    for key, here in (("backbone", backbone), ("normalise", normalise)):
        there = getattr(trained.config, key)
        if there != here:
            raise UserError(
                f"{group}.init {init} has model.{key} {there}, and the network's {key} is {here} "
                "here; expected the same"
            )
    given, wanted = trained.model.trunk.state_dict(), trunk.state_dict()
    missing = [name for name in wanted if name not in given]
    if missing:
        raise UserError(
            f"{group}.init {init} lacks {len(missing)} of the {len(wanted)} tensors of the trunk "
            f"(first {missing[0]}): its model.out_index is {trained.config.out_index}, expected a "
            "network that reads no deeper stage than that"
        )
    trunk.load_state_dict({name: given[name] for name in wanted})
    return f"trunk of {init}, step {trained.step}"
