"""Packages that only some commands need: imported when they are asked for, by one sentence if not.

The names of the extras are those of setup.py: pip install 'dist_oaa[crf]'.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from dist_oaa.config.errors import UserError

# Top-level module -> (name that pip knows, extra). A test holds it against setup.py.
EXTRAS = {
    "pydensecrf": ("pydensecrf2", "crf"),
    "segmentation_models_pytorch": ("segmentation-models-pytorch", "smp"),
    "matplotlib": ("matplotlib", "report"),
    "jinja2": ("jinja2", "report"),
    "ray": ("ray", "sweep"),
    "optuna": ("optuna", "sweep"),
    "onnx": ("onnx", "export"),
    "onnxscript": ("onnxscript", "export"),
    "onnxruntime": ("onnxruntime", "export"),
    "rembg": ("rembg", "rembg"),
}


def need(module: str, user: str) -> ModuleType:
    """Imports a module of one of the EXTRAS.

    Args:
        module: its dotted name.
        user: what needs it, the beginning of a sentence: "labels.refine is crf, which".

    Raises:
        UserError: when it is not installed (the sentence gives the command that does it), or
            cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name is not None
        if absent and _top(error.name) == _top(module):
            raise UserError(_sentence(module, user)) from error
        package, reason = EXTRAS[_top(module)][0], " ".join(str(error).split())
        raise UserError(f"{user} needs {package}, which cannot be loaded: {reason}") from error


def check_extras(settings: Mapping[str, Any]) -> None:
    """Refuses settings that ask for a package which is not installed; imports none.

    A run, and a pipeline of many, says so before it begins.

    Args:
        settings: of one stage, values by dotted key.

    Raises:
        UserError: names the setting, the package and the command that installs it.
    """
    for module, user in needed_by(settings):
        if importlib.util.find_spec(module) is None:
            raise UserError(_sentence(module, user))


def absent(user: str, *modules: str) -> str:
    """The sentence about the first of these modules that is not installed; empty where all are."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return _sentence(missing[0], user) if missing else ""


def needed_by(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(module, what needs it) of everything that the settings of a stage ask for."""
    found = []
    if "crf" in (settings.get("labels.refine") or ()):
        found.append(("pydensecrf", "labels.refine is crf, which"))
    if settings.get("crf") is True:
        found.append(("pydensecrf", "crf is true, which"))
    for key in ("labels.saliency", "method"):
        if settings.get(key) == "rembg":
            found.append(("rembg", f"{key} is rembg, which"))
    architecture = str(settings.get("network.architecture", ""))
    if architecture.startswith("smp:"):
        user = f"network.architecture is {architecture}, which"
        found.append(("segmentation_models_pytorch", user))
    return found


def _sentence(module: str, user: str) -> str:
    package, extra = EXTRAS[_top(module)]
    return f"{user} needs {package}: pip install 'dist_oaa[{extra}]'"


def _top(module: str) -> str:
    return module.split(".")[0]
