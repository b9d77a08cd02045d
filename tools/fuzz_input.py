"""Throws damaged files at everything that reads files from users, and counts what becomes of them.

    python tools/fuzz_input.py                     20 seconds for each reader, a table, fuzz.json
    python tools/fuzz_input.py --seconds 600 --reader "labels.csv"

Every input is accepted or refused with a UserError; a traceback, a hang (10 s), or memory above
2 GB is a crash: the input is kept in `--keep` and named. Inputs grow out of one sound file for each
reader, by random changes, and half of the time by atheris (libFuzzer, steered by the coverage of
dist_oaa) where it is installed. A reader runs in a process of its own.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

HANG_S, MEMORY_MB = 10, 2048


@dataclass
class Counts:
    """What became of a reader's inputs."""

    accepted: int = 0
    refused: int = 0
    crashed: int = 0

    @property
    def tried(self) -> int:
        """All inputs."""
        return self.accepted + self.refused + self.crashed


class Trial:
    """One reader in its neighbourhood; called with the bytes of a file."""

    def __init__(self, name: str, folder: Path, keep: Path) -> None:
        from fuzz_readers import READERS, neighbourhood

        neighbourhood(folder)
        self.reader = next(reader for reader in READERS if reader.name == name)
        self.folder, self.keep, self.counts = folder, keep, Counts()
        self.path = folder / self.reader.file
        self.sound = self.path.read_bytes()

    def __call__(self, data: bytes) -> None:
        from dist_oaa.config.errors import UserError

        self.path.write_bytes(data)
        try:
            self.reader.read(self.folder)
        except UserError:
            self.counts.refused += 1
        except Exception as error:
            self.counts.crashed += 1
            print(f"{self.reader.name}: {type(error).__name__}: {error}", flush=True)
            if self.counts.crashed <= 5:
                self.keep_input(data)
        else:
            self.counts.accepted += 1

    def keep_input(self, data: bytes) -> None:
        """Saves an input for whoever mends the reader."""
        self.keep.mkdir(parents=True, exist_ok=True)
        stem = self.reader.file.replace("/", "_")
        (self.keep / f"{self.counts.crashed}-{stem}").write_bytes(data)


def changed(sound: bytes, rng: random.Random) -> bytes:
    """Some of: flipped bits, bytes set, cut off, taken out, doubled, put in."""
    data = bytearray(sound)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(6)
        length = rng.choice((1, 1, 2, 4, 8, 64))
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"9")) * length
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length] * rng.choice((1, 2, 100))
        else:
            data[at:at] = rng.randbytes(length)
    return bytes(data)


def by_chance(trial: Trial, seconds: float, seed: int) -> None:
    """Random changes of the sound file until the time is over."""
    rng, end = random.Random(seed), time.monotonic() + seconds

    def hangs(*_: object) -> None:
        raise TimeoutError(f"no answer within {HANG_S} s")

    signal.signal(signal.SIGALRM, hangs)
    while time.monotonic() < end:
        signal.alarm(HANG_S)
        trial(changed(trial.sound, rng))
        signal.alarm(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # libFuzzer has its own


def by_coverage(trial: Trial, seconds: float, seed: int, finish: Callable[[], None]) -> None:
    """libFuzzer's changes, steered by what they reach; does not return."""
    import atheris

    corpus = trial.folder / ".corpus"
    corpus.mkdir()
    (corpus / "sound").write_bytes(trial.sound)
    options = [
        f"-timeout={HANG_S}",
        f"-seed={seed + 1}",
        f"-rss_limit_mb={MEMORY_MB}",
        "-print_final_stats=0",
        "-verbosity=0",
        f"-artifact_prefix={trial.keep}/",
        f"-max_len={2 * len(trial.sound) + 4096}",
        "-len_control=0",  # long inputs from the beginning
    ]
    end = time.monotonic() + seconds

    def once(data: bytes) -> None:
        trial(data)
        if time.monotonic() > end:
            finish()
            os._exit(0)

    atheris.Setup([sys.argv[0], *options, str(corpus)], once)
    atheris.Fuzz()


def run_one(name: str, seconds: float, seed: int, keep: Path, out: Path) -> None:
    """The work of one process; the counts go to `out`."""
    try:
        import atheris

        with atheris.instrument_imports(include=["dist_oaa"], enable_loader_override=False):
            import fuzz_readers  # noqa: F401
    except ImportError:
        atheris = None
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(name, Path(folder), keep)

        def finish() -> None:
            engine = "random changes" + " and atheris" * (atheris is not None)
            out.write_text(json.dumps(asdict(trial.counts) | {"engine": engine}))

        by_chance(trial, seconds / 2 if atheris else seconds, seed)
        finish()
        if atheris:
            keep.mkdir(parents=True, exist_ok=True)
            by_coverage(trial, seconds / 2, seed, finish)


def run_apart(name: str, args: argparse.Namespace) -> tuple[Counts, str]:
    """One reader in a process of its own; a process that dies counts as a crash."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "counts.json"
        command = [sys.executable, __file__, "--reader", name, "--seconds", str(args.seconds)]
        command += ["--seed", str(args.seed), "--keep", args.keep, "--counts", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.seconds + 120)
        found = json.loads(out.read_text()) if out.exists() else {"engine": "nothing"}
        engine = found.pop("engine")
        counts = Counts(**found)
        if done.returncode:  # killed by what it read, or stopped by libFuzzer
            counts.crashed += 1
        if counts.crashed:
            print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
        return counts, engine


def show(results: dict[str, tuple[Counts, str]]) -> None:
    """Prints the table."""
    table = Table(title="Damaged input", title_justify="left")
    table.add_column("reader")
    for name in ("tried", "accepted", "refused", "crashed"):
        table.add_column(name, justify="right")
    total = Counts()
    for name, (counts, _) in results.items():
        for part in ("accepted", "refused", "crashed"):
            setattr(total, part, getattr(total, part) + getattr(counts, part))
        table.add_row(name, *(f"{n:,}" for n in numbers(counts)))
    table.add_section()
    table.add_row("all", *(f"{n:,}" for n in numbers(total)))
    Console().print(table)
    print("inputs made by", ", ".join(sorted({engine for _, engine in results.values()})))


def numbers(counts: Counts) -> tuple[int, int, int, int]:
    """The columns of the table."""
    return counts.tried, counts.accepted, counts.refused, counts.crashed


def reader_names() -> list[str]:
    """All readers, in the order of the table."""
    from fuzz_readers import READERS

    return [reader.name for reader in READERS]


def main() -> int:
    """Runs the readers; exit code 1 when anything crashed."""
    apart = "--counts" in sys.argv  # there the readers are imported later, with instruments
    names = [] if apart else reader_names()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="time for each reader")
    parser.add_argument("--seed", type=int, default=0, help="of the random changes")
    parser.add_argument("--reader", choices=names or None, help="one reader instead of all")
    parser.add_argument("--keep", default="fuzz-crashes", help="folder for inputs that crash")
    parser.add_argument("--json", default="fuzz.json", help="file for the counts")
    parser.add_argument("--counts", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.counts:
        run_one(args.reader, args.seconds, args.seed, Path(args.keep), Path(args.counts))
        return 0
    results = {name: run_apart(name, args) for name in ([args.reader] if args.reader else names)}
    show(results)
    rows = {name: asdict(c) | {"tried": c.tried, "engine": e} for name, (c, e) in results.items()}
    Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(counts.crashed for counts, _ in results.values()))


if __name__ == "__main__":
    sys.exit(main())
