"""Attempts of one launch: torchrun may start the ranks again, with fewer nodes or more.

A run that torchrun has started again goes on from its last checkpoint though nobody typed
`--resume`. It is told from a first start by who started it: torchrun outlives its workers, so a
worker whose launcher is noted in the run directory belongs to a launch that was there before.
(TORCHELASTIC_RESTART_COUNT does not tell: each node counts for itself, and one that joins later
makes all start again without being counted.)
"""

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.files import disk_words, write_atomic

LAUNCHERS = "launchers.json"


def launcher() -> str:
    """Identity of the torchrun that started this process; empty where none did."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    parent = os.getppid()
    try:
        started = Path(f"/proc/{parent}/stat").read_text().rsplit(")", 1)[1].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux: process ids come again, but seldom on the same day
        started = boot = ""
    return ":".join((socket.gethostname(), str(parent), started, boot))


def starts_again() -> bool:
    """Whether torchrun will start the ranks again when they fail (as this node counts)."""
    names = ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS")
    done, most = (int(os.environ.get(name, "0")) for name in names)
    return done < most


def check_restarts() -> None:
    """Refuses a torchrun that promises to start the ranks again and cannot.

    By default it lends them its own key-value store, which keeps the addresses that the ranks of
    the attempt before have left there, and lives on a node that may be the one that is lost.

    Raises:
        UserError: naming the variable that makes each attempt use a store of its own.
    """
    if (
        int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0
        and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and int(os.environ.get("WORLD_SIZE", "1")) > 1
    ):
        raise UserError(
            "torchrun was given --max-restarts, but ranks that it starts again would meet at the "
            "addresses of those before: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun on "
            "every node, as launch/multinode.sh does"
        )


def was_started_again(run_dir: Path, launchers: Sequence[str]) -> bool:
    """Whether any launcher of this attempt has worked on the run before."""
    try:
        known = json.loads((run_dir / LAUNCHERS).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(known, list) and any(name and name in known for name in launchers)


def note_launchers(run_dir: Path, launchers: Sequence[str]) -> None:
    """Notes who has started this attempt, beside those of the attempts before it.

    Raises:
        UserError: when the folder cannot be written.
    """
    if not any(launchers):
        return
    try:
        known = json.loads((run_dir / LAUNCHERS).read_bytes())
        known = known if isinstance(known, list) else []
    except (OSError, ValueError):
        known = []
    new = [name for name in dict.fromkeys(launchers) if name and name not in known]
    try:
        write_atomic(run_dir / LAUNCHERS, json.dumps([*known, *new], indent=1).encode())
    except OSError as error:
        raise UserError(
            f"run_dir {run_dir} cannot be written: {disk_words(error, run_dir)}"
        ) from error
