"""Settings as a YAML file holds them: checked, merged, and flattened to dotted keys."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dist_oaa.config.errors import UserError
from dist_oaa.config.load import nearest_key
from dist_oaa.config.yaml_text import load_yaml


def read_tree(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        UserError: when the file is missing, unreadable, no YAML or no mapping.
    """
    return as_mapping(load_yaml(path), str(path))


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`: mappings key by key, anything else as a whole."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if both else value
    return merged


def as_mapping(value: object, where: str) -> dict[str, Any]:
    """The value, or a UserError when it is no mapping."""
    if not isinstance(value, dict):
        raise UserError(f"{where} is {value!r}, expected lines of `key: value`")
    return value


def as_list(value: object, where: str) -> list[Any]:
    """The value, or a UserError when it is no list."""
    if not isinstance(value, list):
        raise UserError(f"{where} is {value!r}, expected a list")
    return value


def check_keys(entry: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raises UserError for a key that an entry must not have; the nearest valid one is named."""
    known = list(known)
    for key in entry:
        if key not in known:
            nearest = nearest_key(str(key), known)
            hint = f"; the nearest valid key is {nearest}" if nearest else ""
            raise UserError(f"unknown key {key} in {where}{hint}")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys; those that are dotted stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
