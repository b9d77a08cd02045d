"""Fusions: how an accepted attention joins the cumulative map; one file each."""

import importlib

from dist_oaa.attention.fusions.average import AVERAGE
from dist_oaa.attention.fusions.ema import EMA
from dist_oaa.attention.fusions.fusion import Fusion, Step
from dist_oaa.attention.fusions.harmonic import HARMONIC
from dist_oaa.attention.fusions.maximum import MAXIMUM
from dist_oaa.config.errors import UserError

__all__ = ["FUSIONS", "FUSION_NUMBERS", "Fusion", "Step", "find_fusion", "stored_dtype"]

FUSIONS: dict[str, Fusion] = {each.name: each for each in (MAXIMUM, AVERAGE, HARMONIC, EMA)}

# The numbers by which the Triton and C++ kernels know the fusions that they compute themselves;
# the others run in vectorised.py.
FUSION_NUMBERS = {"max": 0, "average": 1}


def find_fusion(name: str) -> Fusion:
    """A fusion by its name, or one of a user's own by `module:NAME`.

    Raises:
        UserError: when there is none, or what is there is no Fusion.
    """
    if name in FUSIONS:
        return FUSIONS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(
            f"accumulate.fusion is {name!r}, expected {', '.join(FUSIONS)}, or module:NAME for a "
            "Fusion of your own"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"accumulate.fusion {name}: {error}") from error
    if not isinstance(found, Fusion):
        raise UserError(
            f"accumulate.fusion {name} is a {type(found).__name__}, expected a "
            "dist_oaa.attention.fusions.Fusion"
        )
    return FUSIONS.setdefault(name, found)


def stored_dtype(setting: str, fusion: Fusion) -> str:
    """The number format of the maps: `accumulate.dtype` after `auto` is resolved.

    Raises:
        UserError: when rounding would bias the fusion.
    """
    if setting == "auto":
        return "float32" if fusion.needs_float else "uint8"
    if fusion.needs_float and setting != "float32":
        raise UserError(
            f"accumulate.dtype is {setting}, expected float32 (or auto) with accumulate.fusion "
            f"{fusion.name}: rounding its maps at each update biases them"
        )
    return setting
