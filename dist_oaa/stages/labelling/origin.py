"""Where attention maps come from: the run that made them, as far as its folder tells."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.runtime.rundir import CONFIG
from dist_oaa.stages.run_settings import build_settings, read_settings
from dist_oaa.store.maps import MapSource

COMMANDS = "oaa classify, oaa integral or oaa attend"
LONGEST = 8
"""Runs that are followed back, so that two which name each other end."""


@dataclass(frozen=True)
class Origin:
    """The run of some maps, if there is one."""

    run_dir: Path | None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> DataConfig | None:
        """What the maps show; None where nobody knows.

        Raises:
            UserError: when the run's settings cannot be understood.
        """
        if self.run_dir is None or "data" not in self.settings:
            return None
        return build_settings(DataConfig, self.settings, "data", self.run_dir)

    @property
    def trunks(self) -> list[str]:
        """Networks behind the maps, latest first, each with what its weights began as."""
        found: list[str] = []
        origin: Origin | None = self
        for _ in range(LONGEST):
            if origin is None or origin.run_dir is None:
                break
            model = origin.settings.get("model")
            if isinstance(model, dict) and {"backbone", "weights"} <= model.keys():
                found.append(f"{model['backbone']}, trunk weights {model['weights']}")
            origin = origin._earlier()
        return list(dict.fromkeys(found))

    def _earlier(self) -> "Origin | None":
        """The run that this one began with: its checkpoint, or the maps that it learnt from."""
        for key in ("checkpoint", "maps"):
            value = self.settings.get(key)
            if isinstance(value, str) and value:
                return origin_of(Path(value))
        return None


def origin_of(path: Path) -> Origin:
    """The run directory that a path names, or that the store or folder it names lies in."""
    for folder in (path, path.parent):
        if (folder / CONFIG).is_file():
            try:
                return Origin(folder, read_settings(folder, COMMANDS))
            except UserError:
                break  # a damaged file tells nothing, and nothing depends on it
    return Origin(None)


def describe(source: MapSource, path: str) -> str:
    """One phrase on what kind of maps these are."""
    kind = "cumulative maps of a store" if source.is_store else "map files"
    return f"{path} ({kind}, {source.map_size} x {source.map_size} cells, {source.dtype})"
