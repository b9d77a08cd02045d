"""YAML from outside: held against limits before anything is built from it.

A file of a few hundred bytes can stand for billions of nodes (aliases of aliases), refer to itself
or be nested deeper than Python's stack; and of a key that stands there twice, a parser takes the
last without a word. All of that shows in the stream of events, which costs no more than the text.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dist_oaa.config.errors import UserError

LARGEST = 4_000_000
"""Characters of a file of settings."""
DEEPEST = 32
"""Mappings and lists within each other."""
MOST_NODES = 200_000
"""Values, keys included, that a text stands for, those of aliases counted each time."""
LONGEST = 2_000
"""Entries of a list or mapping among a stage's settings, whose parser takes a time that grows with
their square: 3 s for so many."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(path: Path) -> Any:
    """What a YAML file holds: mappings, lists, strings, numbers, dates; never other objects.

    Raises:
        UserError: the file cannot be read, is no YAML, or breaks a limit.
    """
    text = read_text(path)
    try:
        check_yaml(text, str(path))
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a number of 5000 digits is a ValueError
        raise UserError(f"{path} is no valid YAML: {_one_line(error)}") from error


def read_text(path: Path) -> str:
    """The text of a file of settings.

    Raises:
        UserError: it cannot be read, is no UTF-8, or is too long to be settings.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(LARGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{path} cannot be read: {reason}") from error
    if len(text) > LARGEST:
        raise UserError(f"{path} is longer than {LARGEST:,} characters, expected settings")
    return text


def check_yaml(text: str, where: str, longest: int = MOST_NODES) -> None:
    """Holds a text against the limits.

    Args:
        where: the file, for the sentence.
        longest: entries that one list or mapping may have.

    Raises:
        UserError: it is nested too deeply, stands for too many values, refers to itself, or has a
            key twice in one mapping.
        yaml.YAMLError: it is no YAML.
    """
    open_nodes: list[_Open] = [_Open(None, None)]
    sizes: dict[str, int] = {}
    for event in _events(text):
        parent = open_nodes[-1]
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise UserError(f"{where} has the alias *{event.anchor} of what it is part of")
            parent.add(None, sizes[event.anchor], where)
        elif isinstance(event, yaml.ScalarEvent):
            parent.add(event, 1, where)
            sizes[event.anchor or ""] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(open_nodes) > DEEPEST:
                raise UserError(f"{where} is nested more than {DEEPEST} levels deep")
            keys = set() if isinstance(event, yaml.MappingStartEvent) else None
            open_nodes.append(_Open(event.anchor, keys))
            sizes.pop(event.anchor or "", None)  # an anchor may be used again for another node
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = open_nodes.pop()
            sizes[closed.anchor or ""] = closed.size
            open_nodes[-1].add(None, closed.size, where)
            entries = closed.children // (1 if closed.keys is None else 2)
            if entries > longest:
                raise UserError(
                    f"{where} has a list of {entries:,} entries, expected at most {longest:,} "
                    "(long lists of class names belong in classes.txt)"
                )


class _Open:
    """A mapping (with the keys so far) or a list that has not ended."""

    def __init__(self, anchor: str | None, keys: set[str] | None) -> None:
        self.anchor, self.keys = anchor, keys
        self.size, self.children = 1, 0

    def add(self, scalar: yaml.ScalarEvent | None, size: int, where: str) -> None:
        is_key = self.keys is not None and self.children % 2 == 0
        self.children += 1
        self.size += size
        if self.size > MOST_NODES:
            raise UserError(f"{where} stands for more than {MOST_NODES:,} values")
        if is_key and scalar is not None:
            if scalar.value in self.keys and scalar.value != "<<":
                line = scalar.start_mark.line + 1
                raise UserError(
                    f"{where}, line {line}: the key {scalar.value!r} a second time, expected it "
                    "once"
                )
            self.keys.add(scalar.value)


def _events(text: str) -> Iterator[yaml.Event]:
    yield from yaml.parse(text, Loader=LOADER)


def _one_line(error: Exception) -> str:
    return re.sub(r'"<unicode string>", ', "", " ".join(str(error).split()))
