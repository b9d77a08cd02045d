"""The settings files that come with the package: where they lie, wherever it is installed."""

import sysconfig
from collections.abc import Sequence
from pathlib import Path

import dist_oaa

FOLDER = Path("configs")
SHARED = Path("share") / "dist_oaa"
"""Where setup.py puts them, below the root of an installation."""


def preset_roots() -> list[Path]:
    """Folders that may hold configs/: this one, the sources, and where pip puts data files."""
    beside = Path(dist_oaa.__file__).parents[1]
    # In an environment or the system; with --user; with --target, beside the package.
    schemes = ("", sysconfig.get_preferred_scheme("user"))
    installed = [Path(sysconfig.get_path("data", *filter(None, [s]))) / SHARED for s in schemes]
    roots = (Path.cwd(), beside, *installed, beside / SHARED)
    return list(dict.fromkeys(root.resolve() for root in roots))


def find_preset(name: str) -> Path | None:
    """The package's own file of a name such as `configs/demo/classify.yaml`; None without one."""
    if Path(name).is_absolute() or Path(name).parts[:1] != FOLDER.parts or ".." in Path(name).parts:
        return None
    return next((root / name for root in preset_roots() if (root / name).is_file()), None)


def with_presets(argv: Sequence[str]) -> list[str]:
    """The arguments, in which `--config configs/...` finds the package's files from any folder.

    A file that lies where the name says is always taken first.
    """
    found = list(argv)
    for n, word in enumerate(found):
        if word == "--config" and n + 1 < len(found):
            found[n + 1] = _resolved(found[n + 1])
        elif word.startswith("--config="):
            found[n] = "--config=" + _resolved(word.split("=", 1)[1])
    return found


def _resolved(name: str) -> str:
    if Path(name).exists():
        return name
    preset = find_preset(name)
    return name if preset is None else str(preset)
