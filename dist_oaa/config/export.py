"""All settings of `oaa export`."""

from dataclasses import dataclass
from typing import Literal

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}
"""How the file of each format must be called."""


@dataclass(kw_only=True)
class ExportConfig:
    """Write a trained segmentation network as one file that runs without this project."""

    checkpoint: str = ""
    """Run directory of `oaa segment` whose published checkpoint is taken (RUN/checkpoints/best: the
    one of checkpoint.keep_best); usually the first word of the command."""
    format: Literal["onnx", "torch_export"] = "onnx"
    """onnx for ONNX Runtime and others, torch_export for torch.export.load."""
    out: str = ""
    """New file: .onnx, or .pt2 for torch_export."""
    size: Literal["dynamic"] | list[int] = "dynamic"
    """Height and width in pixels of the images that the file takes (`--size 512 512`); dynamic
    takes any from 32 pixels on (33 for a network of stride 32)."""
    output: Literal["probabilities", "logits", "labels"] = "probabilities"
    """What comes out for every pixel: float32 probabilities or logits of the background and each
    class, or the most probable label as uint8."""
    tolerance: float = 1e-3
    """Largest difference between the file and the network that passes: of a probability, of a logit
    as a share of the largest one, or of labels as a share of the pixels."""

    def __post_init__(self) -> None:
        if not isinstance(self.size, str) and (len(self.size) != 2 or min(self.size) < 32):
            raise ValueError(
                f"size is {self.size}, expected dynamic, or height and width in pixels, at least "
                "32 each"
            )
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}, expected 0 to below 1")
