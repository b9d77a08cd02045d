"""The file formats: how each is written, and how it is run again for the comparison."""

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim

from dist_oaa.config.errors import RunError, in_one_line
from dist_oaa.config.extras import need
from dist_oaa.stages.exporting.deployed import DeployedSegmenter, smallest_side

Size = tuple[int, int] | None
"""Height and width, or None for any."""
EXAMPLE = (96, 130)
"""Height and width of the example by which a network of any size is traced."""
METADATA = "metadata.json"
"""Name of the metadata inside a .pt2 file (`extra_files` of torch.export.load)."""


@dataclass(frozen=True)
class Format:
    """One file format."""

    write: Callable[[DeployedSegmenter, Size, dict[str, str], Path], None]
    """(network, size, metadata, file)"""
    load: Callable[[Path], Callable[[Tensor], Tensor]]
    """What runs the file on a CPU."""


def traced(deployed: DeployedSegmenter, size: Size) -> torch.export.ExportedProgram:
    """The network as a graph that takes any batch, and images of one size or of any.

    Raises:
        RunError: when the network cannot be traced.
    """
    height, width = size or EXAMPLE
    # Two images: with one, the batch would be taken for a constant.
    image_B3HW = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    free: dict[int, Dim] = {0: Dim("batch")}
    if size is None:
        least = smallest_side(deployed.network.stride)
        free |= {2: Dim("height", min=least), 3: Dim("width", min=least)}
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(deployed, (image_B3HW,), dynamic_shapes=(free,))
    except Exception as error:  # torch.export has a dozen kinds of them
        reason = in_one_line(error)
        advice = "; a fixed --size may work" if size is None else ""
        raise RunError(f"the network cannot be traced by torch.export{advice}: {reason}") from error


def write_torch_export(
    deployed: DeployedSegmenter, size: Size, metadata: dict[str, str], path: Path
) -> None:
    """Writes a .pt2 file.

    Raises:
        RunError: when the network cannot be traced.
        OSError: when the disk is full or not writable.
    """
    text = json.dumps(metadata, indent=1, ensure_ascii=False)
    torch.export.save(traced(deployed, size), path, extra_files={METADATA: text})


def load_torch_export(path: Path) -> Callable[[Tensor], Tensor]:
    """Runs a .pt2 file."""
    return torch.export.load(path).module()


def write_onnx(
    deployed: DeployedSegmenter, size: Size, metadata: dict[str, str], path: Path
) -> None:
    """Writes an .onnx file, with the metadata among its `metadata_props`.

    Raises:
        UserError: when a package of the extra `export` is missing.
        RunError: when the network cannot be traced, or holds what ONNX does not know.
        OSError: when the disk is full or not writable.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package, "format onnx")
    program = traced(deployed, size)
    try:
        with torch.no_grad(), quiet():
            found = torch.onnx.export(
                program, input_names=["image"], output_names=["pixels"], verbose=False
            )
    except Exception as error:  # as above
        reason = in_one_line(error)
        raise RunError(f"the network cannot be translated to ONNX: {reason}") from error
    assert found is not None
    found.model.metadata_props.update(metadata)
    found.save(path, external_data=False)


def load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """Runs an .onnx file in ONNX Runtime."""
    runtime = need("onnxruntime", "format onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image_B3HW: torch.from_numpy(session.run(None, {name: image_B3HW.numpy()})[0])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' notes to their own developers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


FORMATS = {
    "onnx": Format(write_onnx, load_onnx),
    "torch_export": Format(write_torch_export, load_torch_export),
}
