"""Distributed online attention accumulation for weakly supervised semantic segmentation.

The public API of dist_oaa.plugin can be imported from here; nothing is loaded before it is asked
for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dist_oaa.plugin import (
        AttentionAccumulator,
        ExternalCAM,
        Geometry,
        OnlineCAM,
        Outcome,
        OwnershipBatchSampler,
        OwnershipSampler,
        TokenMap,
        UserError,
    )

__version__ = "0.1.0"

__all__ = [
    "AttentionAccumulator",
    "ExternalCAM",
    "Geometry",
    "OnlineCAM",
    "Outcome",
    "OwnershipBatchSampler",
    "OwnershipSampler",
    "TokenMap",
    "UserError",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'dist_oaa' has no attribute {name!r}")
    from dist_oaa import plugin  # imports torch

    return getattr(plugin, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
