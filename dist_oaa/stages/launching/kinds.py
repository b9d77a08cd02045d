"""The stages of which runs are made, and how each one finds what it reads."""

import importlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A stage as whoever starts it sees it."""

    config: str
    """Its settings: module and dataclass."""
    source: str = ""
    """The setting that names the run it reads; empty where it reads the data set alone."""
    maps: str = ""
    """The kind of maps that a row shows when it names none."""
    inherits_data: bool = False
    """Takes its data settings from the run it reads, as long as it is given no data.root."""

    alone: bool = False
    """Started as a single process, which uses all cores by itself."""

    def config_class(self) -> type:
        """The dataclass of its settings."""
        module, name = self.config.split(":")
        return getattr(importlib.import_module(module), name)


KINDS = {
    "classify": Kind("dist_oaa.config.classify:ClassifyConfig", maps="cumulative"),
    "attend": Kind(
        "dist_oaa.config.attend:AttendConfig", "checkpoint", "attention", inherits_data=True
    ),
    "integral": Kind("dist_oaa.config.integral:IntegralConfig", "maps", "integral"),
    "saliency": Kind("dist_oaa.config.saliency:SaliencyConfig", alone=True),
    "pseudo-label": Kind(
        "dist_oaa.config.pseudo_label:PseudoLabelConfig",
        "maps",
        "labels",
        inherits_data=True,
        alone=True,
    ),
    "affinity": Kind("dist_oaa.config.affinity:AffinityConfig", "labels"),
    "segment": Kind("dist_oaa.config.segment:SegmentConfig", "labels", "segmentation"),
    "evaluate": Kind(
        "dist_oaa.config.evaluate:EvaluationConfig",
        "checkpoint",
        "segmentation",
        inherits_data=True,
    ),
    "localize": Kind(
        "dist_oaa.config.localize:LocalizeConfig",
        "checkpoint",
        "localization",
        inherits_data=True,
    ),
}
