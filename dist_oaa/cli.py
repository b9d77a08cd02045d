"""The command line: `oaa STAGE --config FILE --key value`, the same under torchrun.

A stage is started by `oaa STAGE ...` as a world of one, or by
`torchrun --nproc-per-node N -m dist_oaa STAGE ...` as a world of N.
"""

import errno
import importlib
import os
import sys
from collections.abc import Sequence

from dist_oaa.config.errors import Interrupted, RunError, UserError
from dist_oaa.config.load import choose_command, print_error
from dist_oaa.config.presets import with_presets

# command -> (module with `main(prog, argv) -> exit code`, one sentence). Imported when called:
# `oaa --help` answers without loading torch.
COMMANDS = {
    "pipeline": ("dist_oaa.stages.pipeline", "run several stages, each on what came before"),
    "classify": (
        "dist_oaa.stages.classify",
        "train a classifier and accumulate its attention *",
    ),
    "attend": (
        "dist_oaa.stages.attend",
        "write and measure the attention maps of a trained classifier *",
    ),
    "integral": (
        "dist_oaa.stages.integral",
        "train the integral attention model on the maps of a run *",
    ),
    "saliency": ("dist_oaa.stages.saliency", "write a saliency map for each image *"),
    "affinity": (
        "dist_oaa.stages.affinity",
        "learn which pixels belong together, for the random walk *",
    ),
    "pseudo-label": (
        "dist_oaa.stages.pseudo_label",
        "turn attention maps into pixel labels, and measure them *",
    ),
    "segment": (
        "dist_oaa.stages.segment",
        "train a segmentation network on pixel labels *",
    ),
    "evaluate": (
        "dist_oaa.stages.evaluate",
        "measure a segmentation network, or a folder of label images *",
    ),
    "localize": (
        "dist_oaa.stages.localize",
        "predict boxes with a trained classifier, and measure them *",
    ),
    "predict": ("dist_oaa.stages.predict", "segment photographs, or box their objects"),
    "export": ("dist_oaa.stages.export", "write a trained network as ONNX or torch.export file"),
    "report": ("dist_oaa.stages.report", "write a run, or a pipeline, as one page"),
    "view": ("dist_oaa.stages.view", "open that page, written anew where it is old"),
    "reproduce": ("dist_oaa.stages.reproduce", "make a table of the papers out of such runs"),
    "tune": ("dist_oaa.stages.tune", "try settings with Ray Tune, each trial an ordinary run"),
    "data": ("dist_oaa.stages.data", "check, generate, download or export a data set"),
    "doctor": ("dist_oaa.stages.doctor", "examine this machine and try what runs rest on"),
    "store": ("dist_oaa.stages.store", "inspect, verify, export, import or compare stores"),
}

DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS)


def usage() -> str:
    """The overview that `oaa` and `oaa --help` print."""
    lines = ["usage: oaa COMMAND ...   (oaa COMMAND --help lists its settings)", ""]
    lines += [f"  {name:<13} {sentence}" for name, (_, sentence) in COMMANDS.items()]
    lines += ["", "* on several processes: torchrun --nproc-per-node N -m dist_oaa COMMAND ..."]
    return "\n".join(lines)


def run(argv: Sequence[str]) -> int:
    """Runs one command and returns its exit code; errors are raised."""
    if argv and argv[0] in ("--version", "-V"):
        from dist_oaa import __version__

        print(f"dist_oaa {__version__}")
        return 0
    command = choose_command("oaa", argv or ["--help"], COMMANDS, usage())
    if command is None:
        return 0 if argv else UserError.exit_code
    module = importlib.import_module(COMMANDS[command][0])
    return module.main(f"oaa {command}", with_presets(argv[1:])) or 0


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 2 the user's mistake, 75 stopped by a signal, 1 else."""
    # DDP warns at every start that it looks for unused parameters, which stages/training.py wants.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        code = run(sys.argv[1:] if argv is None else argv)
    except (UserError, RunError, Interrupted) as error:
        # Every rank raises the same error, so the first one speaks for all; but where contact is
        # lost it may be the one that is missing.
        if getattr(error, "speaks", int(os.environ.get("RANK", "0")) == 0):
            print_error(error)
        code = error.exit_code
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone: not a failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        # On whichever rank it happens: the launcher then ends the others.
        if error.errno not in DISK_ERRORS:
            raise
        print_error(f"{error.filename or 'a file'} could not be written: {error.strerror}")
        code = UserError.exit_code
    sys.exit(code)
