"""What a trial asks of Ray, and whether any node could ever give it."""

from collections.abc import Sequence

from dist_oaa.config.errors import UserError
from dist_oaa.config.tune import TrialConfig

Node = dict[str, float]
"""What a node has: CPU and GPU."""


def per_node(trial: TrialConfig) -> Node:
    """What a trial takes on each of its nodes."""
    need = {"CPU": trial.workers * trial.cpus_per_worker}
    if trial.gpus_per_worker:
        need["GPU"] = trial.workers * trial.gpus_per_worker
    return need


def refuse_impossible(trial: TrialConfig, nodes: Sequence[Node], where: str) -> int:
    """How many trials fit at once; what can never be scheduled is refused, not waited for.

    Args:
        where: what the nodes are, such as `this machine`.

    Raises:
        UserError: naming what is asked for and what there is.
    """
    need = per_node(trial)
    places = [places_on(node, need) for node in nodes]
    fitting = sum(count > 0 for count in places)
    if fitting >= trial.nodes:
        return max(1, sum(places) // trial.nodes)
    asked = " and ".join(f"{value:g} {kind}" for kind, value in need.items())
    each = f"{trial.workers} worker{'' if trial.workers == 1 else 's'}"
    # The whole cluster may be long: what the best node has says enough.
    largest = max(nodes, key=lambda node: min(node.get(k, 0) / v for k, v in need.items()))
    there = " and ".join(f"{largest.get(kind, 0):g} {kind}" for kind in need)
    how_many = f" on each of {trial.nodes} nodes" if trial.nodes > 1 else ""
    if fitting:
        found = f"only {fitting} of the {len(nodes)} nodes of {where} could give that"
    else:
        found = f"{where} has {there}" + (" on its largest node" if len(nodes) > 1 else "")
    raise UserError(f"a trial of {each} asks for {asked}{how_many}, but {found}; lower trial.*")


def places_on(node: Node, need: Node) -> int:
    """Trials that one node can hold."""
    return int(min(node.get(kind, 0) / value + 1e-9 for kind, value in need.items()))
