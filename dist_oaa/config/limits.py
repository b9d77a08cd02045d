"""Values that no setting can mean: numbers that are not finite, absurdly large ones, odd text."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from dist_oaa.config.errors import UserError

LARGEST_COUNT = 2**31 - 1
LARGEST_SEED = 2**63 - 1
LARGEST = {"size": 16_384, "crop": 16_384, "workers": 1_024, "threads": 4_096}
LARGEST |= {"head_channels": 65_536, "head_layers": 64}
"""By the last part of a key: what memory and processes follow from directly."""
LARGEST_TIME_S = 1e7
"""Seconds of a time-out; what takes it counts in nanoseconds of 64 bits."""
LONGEST_PART = 255
LONGEST_TEXT = 4_096
"""Characters of a value; longer than any path can be."""


def check_values(namespace: Any, keys: Iterable[str], origin: Callable[[str], str]) -> None:
    """Refuses such values among the settings of all keys.

    Args:
        namespace: has each dotted key's value under nested attributes.
        origin: where a key was set, for the sentence.

    Raises:
        UserError: at the first one.
    """
    for key in keys:
        value = namespace
        for part in key.split("."):
            value = getattr(value, part)
        for item in value if isinstance(value, list | tuple) else [value]:
            expected = _expected(key, item)
            if expected:
                shown = repr(item) if len(repr(item)) <= 60 else f"{repr(item)[:60]}..."
                raise UserError(f"{key} is {shown} in {origin(key)}, expected {expected}")


def _expected(key: str, item: Any) -> str:
    """What should be there instead; nothing where the value may be meant."""
    name = key.rpartition(".")[2]
    if isinstance(item, float):
        if not math.isfinite(item):
            return "a finite number"
        if name.endswith("_s") and item > LARGEST_TIME_S:
            return f"at most {LARGEST_TIME_S:.0f} seconds"
    elif isinstance(item, int) and not isinstance(item, bool):
        if name == "seed":
            return "" if 0 <= item <= LARGEST_SEED else "0 to 2^63 - 1"
        most = LARGEST.get(name, LARGEST_COUNT)
        return "" if -most <= item <= most else f"at most {most}"
    elif isinstance(item, str):
        if any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in item):
            return "text without line breaks and control characters"
        if len(item) > LONGEST_TEXT:
            return f"at most {LONGEST_TEXT} characters"
        if any(len(part.encode()) > LONGEST_PART for part in item.split("/")):
            return f"at most {LONGEST_PART} bytes between slashes, as file systems allow"
    return ""
