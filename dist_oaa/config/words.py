"""Words without a key on a command line: `oaa predict CHECKPOINT IMAGE... --out DIR`."""

from collections.abc import Sequence
from typing import Any, get_args

from dist_oaa.config.load import dotted_keys

TRUTHS = ("true", "false", "yes", "no")
"""What counts as the value of a boolean setting that may stand alone."""


def split_words(config_class: type, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tells the words of a command from its settings, in whatever order they come.

    `--key value` and `--key=value` are settings; a boolean setting takes a value only where one
    of TRUTHS follows (`--crf photo.jpg` is a setting and a word). After `--` all are words. A list
    is one value (`[1,2]`), or as many numbers as follow its key.

    Args:
        config_class: the dataclass of the settings; it tells which are boolean and which lists.
        argv: the arguments after the command's name.

    Returns:
        The words, and the settings as `parse_config` takes them.
    """
    kinds = dotted_keys(config_class) | {"config": str}
    words, settings, rest = [], [], list(argv)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            words += rest
            break
        if not argument.startswith("-") or argument == "-":
            words.append(argument)
            continue
        settings.append(argument)
        kind = kinds.get(argument.removeprefix("--"))
        if "=" in argument or argument in ("-h", "--help", "--print_config") or not rest:
            continue
        if kind is bool:
            settings.append(rest.pop(0) if rest[0].lower() in TRUTHS else "true")
        elif takes_numbers(kind):
            numbers = _leading_numbers(rest)
            settings.append(f"[{','.join(numbers)}]" if numbers else rest.pop(0))
            del rest[: len(numbers)]
        else:
            settings.append(rest.pop(0))
    return words, settings


def takes_numbers(kind: Any) -> bool:
    """Whether a setting of this type may be a list of numbers."""
    return any(choice in (list[int], list[float]) for choice in (kind, *get_args(kind)))


def _leading_numbers(arguments: Sequence[str]) -> list[str]:
    numbers = []
    for argument in arguments:
        try:
            float(argument)
        except ValueError:
            break
        numbers.append(argument)
    return numbers
