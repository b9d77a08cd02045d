"""Prints the measurements of a run as a Markdown table, one row an epoch.

usage: python tools/metrics_table.py RUN_DIR [METRIC ...]
"""

import json
import sys
from pathlib import Path

DEFAULT = (
    "accept_rate",
    "pairs/coverage",
    "cam/recall",
    "cumulative/recall",
    "cam/noise",
    "cumulative/noise",
    "cam/seed_miou",
    "cumulative/seed_miou",
    "cam/label_miou",
    "cumulative/label_miou",
)


def table(run_dir: Path, names: tuple[str, ...]) -> str:
    """The table; fractions as percentages, a dash where a figure does not exist."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [entry for entry in map(json.loads, lines) if any(n in entry for n in names)]
    names = tuple(n for n in names if any(n in entry for entry in epochs))
    rows = ["| epoch | " + " | ".join(names) + " |", "| ---: |" + " ---: |" * len(names)]
    for entry in epochs:
        values = (entry.get(name) for name in names)
        cells = ("-" if v is None else f"{100 * v:.1f}" for v in values)
        rows.append(f"| {entry['epoch'] + 1} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(table(Path(sys.argv[1]), tuple(sys.argv[2:]) or DEFAULT))
