"""Distributed online attention accumulation for weakly supervised semantic segmentation.

The public API, which dist_oaa.plugin lists, can be imported from here; nothing is loaded before it
is asked for.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dist_oaa.plugin import *  # noqa: F403
else:  # a type checker would take any name for one that this function knows

    def __getattr__(name: str) -> object:
        # All that is public begins with a capital. Python also asks for submodules here before it
        # imports them, which shall not load torch.
        if name[:1].isupper() or name == "__all__":
            from dist_oaa import plugin  # imports torch

            if name == "__all__":
                return [*plugin.__all__, "__version__"]
            if name in plugin.__all__:
                return getattr(plugin, name)
        raise AttributeError(f"module 'dist_oaa' has no attribute {name!r}")


def __dir__() -> list[str]:
    from dist_oaa import plugin

    return sorted({*globals(), *plugin.__all__})
