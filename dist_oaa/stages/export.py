"""`oaa export`: a trained segmentation network as one file, checked against the network itself.

Normalisation is inside: the file takes uint8 RGB images (batch x 3 x height x width, any batch)
and knows the names of its classes.
"""

import dataclasses
import json
import os
import uuid
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dist_oaa import __version__
from dist_oaa.config.errors import RunError, UserError
from dist_oaa.config.export import SUFFIXES, ExportConfig
from dist_oaa.config.load import parse_config
from dist_oaa.config.words import split_words
from dist_oaa.runtime.distributed import arithmetic_threads
from dist_oaa.runtime.files import sync_folder
from dist_oaa.runtime.progress import Reporter
from dist_oaa.stages.exporting.deployed import DeployedSegmenter
from dist_oaa.stages.exporting.formats import FORMATS
from dist_oaa.stages.exporting.parity import Parity, compare, sizes_to_try
from dist_oaa.stages.predicting.finish import BACKGROUND
from dist_oaa.stages.trained_segmenter import TrainedSegmenter, load_segmenter

WORDS = "CHECKPOINT"


def main(prog: str, argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    words, settings = split_words(ExportConfig, argv)
    config = parse_config(ExportConfig, f"{prog} {WORDS}", settings)
    if words and not config.checkpoint:
        config = dataclasses.replace(config, checkpoint=words.pop(0))
    if words:
        raise UserError(f"{prog} takes one {WORDS}, so what is {words[0]!r}?")
    if not config.checkpoint:
        raise UserError(f"no checkpoint is given, expected {prog} {WORDS} --out FILE")
    torch.set_num_threads(arithmetic_threads())
    export(config, Reporter(True, 1))
    return 0


def export(config: ExportConfig, reporter: Reporter) -> list[Parity]:
    """Writes the file; returns how far its outputs are from the network's.

    Raises:
        UserError: no such run, a file that exists, a missing package.
        RunError: when the network cannot be exported, or the file does not compute what the
            network does; then there is no file.
    """
    out = Path(config.out)
    check_out(out, config)
    trained = load_segmenter(Path(config.checkpoint))
    deployed = DeployedSegmenter(trained.network, config.output).eval()
    size = None if isinstance(config.size, str) else (config.size[0], config.size[1])
    reporter.say(
        f"{trained.config.architecture} on {trained.config.backbone} from "
        f"{escape(config.checkpoint)}, step {trained.step}, {len(trained.class_names)} classes"
    )
    writer = FORMATS[config.format]
    # Same folder, so that the rename stays within one file system.
    working = out.with_name(f".{uuid.uuid4().hex}{out.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        writer.write(deployed, size, metadata(config, trained), working)
        sizes = sizes_to_try(size, trained.network.stride)
        found = compare(deployed, writer.load(working), sizes)
        show(reporter, config, found)
        check(config, found)
        os.replace(working, out)
        sync_folder(out.parent)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        working.unlink(missing_ok=True)
    reporter.say(f"{config.format}: {escape(str(out))}, {out.stat().st_size / 1e6:.1f} MB")
    return found


def check_out(out: Path, config: ExportConfig) -> None:
    """Refuses a name that does not fit the format, and a file that is there.

    Raises:
        UserError: for either.
    """
    suffix = SUFFIXES[config.format]
    if out.suffix != suffix:
        raise UserError(f"out is {config.out!r}, expected a file name ending in {suffix}")
    if out.exists():
        raise UserError(f"out {out} exists, and nothing is ever overwritten: choose another name")


def metadata(config: ExportConfig, trained: TrainedSegmenter) -> dict[str, str]:
    """What the file says of itself; lists and numbers as JSON."""
    values: dict[str, Any] = {
        "classes": [BACKGROUND, *trained.class_names],
        "input": "image: uint8 RGB, batch x 3 x height x width, 0 to 255; nothing to normalise",
        "output": config.output,
        "size": config.size,
        "network": dataclasses.asdict(trained.config),
        "checkpoint": config.checkpoint,
        "step": trained.step,
        "supervision": list(trained.supervision),
        "made_by": f"dist_oaa {__version__}",
    }
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in values.items()
    }


def check(config: ExportConfig, found: list[Parity]) -> None:
    """Refuses a file that computes something else.

    Raises:
        RunError: when some difference exceeds the tolerance, or is no number.
    """
    worst = max(found, key=lambda parity: parity.difference)
    # Also true for nan.
    if any(not parity.difference <= config.tolerance for parity in found):
        raise RunError(
            f"the exported network differs from the original by {worst.difference:.2g} at "
            f"{worst.shape_text}, more than tolerance {config.tolerance:g}; no file was written"
        )


def show(reporter: Reporter, config: ExportConfig, found: list[Parity]) -> None:
    """Prints the differences."""
    unit = {"probabilities": "", "logits": "\n(share of the largest)", "labels": "\n(of pixels)"}
    table = Table(title=f"{config.format} against the network", title_justify="left")
    table.add_column("images", justify="right")
    table.add_column("height x width", justify="right")
    table.add_column(f"largest difference{unit[config.output]}", justify="right")
    for parity in found:
        table.add_row(str(parity.batch), parity.size_text, f"{parity.difference:.1e}")
    console: Console = reporter.console
    console.print(table)
