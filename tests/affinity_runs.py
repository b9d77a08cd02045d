"""Small affinity runs for tests."""

from pathlib import Path

from runs import settings


def affinity_settings(data: Path, labels: Path, run_dir: Path, **changes: object) -> list[str]:
    """`affinity` with a network small enough for a fraction of a second a step."""
    learning = {
        "optim.optimizer": "adamw",
        "optim.lr": 0.003,
        "optim.multipliers": "[1, 1, 1, 1]",
        "affinity.channels": "[6, 8, 10]",
        "affinity.radius": 3,
        "affinity.shards": 6,
        "affinity.gallery": 2,
        "runtime.threads": 1,
    }
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    flags = settings(data, run_dir, **learning | changes)[1:]
    pairs = [
        pair
        for pair in zip(flags[::2], flags[1::2], strict=True)
        if not pair[0].startswith(("--accumulate.", "--store.", "--evaluate."))
    ]
    kept = [text for pair in pairs for text in pair]
    return ["affinity", "--labels", str(labels), *kept]
