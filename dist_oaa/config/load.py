"""From a YAML file and the command line to a settings dataclass, with errors that help."""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from dist_oaa.config.errors import UserError
from dist_oaa.config.limits import check_values
from dist_oaa.config.yaml_text import LONGEST, check_yaml, read_text

Config = TypeVar("Config")

LONGEST_SENTENCE = 1500
"""Characters of a sentence that the terminal gets whole."""
SHORT_FORMS = {"--exact-elastic": "--optim.exact_elastic"}
"""What may be written on the command line for a setting, where a command has it."""
UNKNOWN_KEY_PATTERNS = (
    r"unrecognized arguments: --(?P<key>[\w.-]+)",
    r"Group '(?P<group>[\w.]+)' does not accept option '(?P<key>[\w.]+)'",
    r"Option '(?P<key>[\w.]+)' is not accepted",
)


def parse_config(config_class: type[Config], prog: str, argv: Sequence[str]) -> Config:
    """Builds `config_class` from `--config FILE` and then `--key value` arguments.

    Args:
        config_class: a dataclass; nested dataclasses become dotted keys.
        prog: how the command is called, for the help text.
        argv: the arguments after the command's name.

    Raises:
        UserError: for an unknown key (the nearest valid one is named), a value of the wrong type
            or range, and a file that is missing, no YAML or beyond its limits.
        SystemExit: after --help and --print_config.
    """
    parser = _parser(config_class, prog)
    keys = dotted_keys(config_class)
    check_texts(argv)
    argv = spelt_out(argv, keys)
    argv = complete_flags(argv, [k for k, kind in keys.items() if kind is bool])
    swallowed = io.StringIO()
    try:
        with redirect_stderr(swallowed), warnings.catch_warnings():
            # Its deprecation notices concern this project's maintainers, not its users.
            warnings.simplefilter("ignore", DeprecationWarning)
            parsed = parser.parse_args(argv)
            empty = [key for key in keys if parsed.get(key, key) is None]
            if empty:  # `root:` with nothing after it
                raise UserError(f"{empty[0]} in {_origin(empty[0], argv)} has no value")
            namespace = parser.instantiate(parsed)
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise UserError(explain(str(error), keys, argv)) from error
    check_values(namespace, keys, lambda key: _origin(key, argv))
    fields = {f.name: getattr(namespace, f.name) for f in dataclasses.fields(config_class)}
    try:
        return config_class(**fields)
    except ValueError as error:
        raise UserError(explain(str(error), keys, argv)) from error


@functools.lru_cache(maxsize=64)
def _parser(config_class: type, prog: str) -> ArgumentParser:
    """The parser of a command; made once, since plans and sweeps read dozens of settings."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} [--config FILE] [--key value ...]",
        exit_on_error=False,
        # `--optim.warmup 5` shall be an unknown key, not a guess at the one that begins so.
        allow_abbrev=False,
        description=config_class.__doc__,
    )
    parser.add_argument("--config", action="config", help="YAML file of settings; later keys win")
    parser.add_class_arguments(config_class)
    return parser


def check_texts(argv: Sequence[str]) -> None:
    """Holds files of settings, and values on the command line, against the limits of YAML.

    Raises:
        UserError: see config/yaml_text.py.
    """
    for name in config_files(argv):
        if Path(name).is_file():
            with contextlib.suppress(yaml.YAMLError):  # the parser will say it
                check_yaml(read_text(Path(name)), name, LONGEST)
    for text in argv:
        if any(mark in text for mark in "[{*"):  # else it is one plain value
            with contextlib.suppress(yaml.YAMLError):
                check_yaml(text.removeprefix("--").split("=", 1)[-1], "the command line", LONGEST)


def config_files(argv: Sequence[str]) -> list[str]:
    """The files that `--config` names."""
    files = [argv[i + 1] for i, arg in enumerate(argv[:-1]) if arg == "--config"]
    return files + [arg.split("=", 1)[1] for arg in argv if arg.startswith("--config=")]


def dotted_keys(config_class: type, prefix: str = "") -> dict[str, Any]:
    """All settable keys of a config dataclass, such as `optim.lr`, with their types, in order."""
    keys: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        name = prefix + field.name
        if dataclasses.is_dataclass(field.type):
            keys |= dotted_keys(field.type, name + ".")
        else:
            keys[name] = field.type
    return keys


def spelt_out(argv: Sequence[str], keys: Iterable[str]) -> list[str]:
    """Arguments with the keys that SHORT_FORMS stand for."""
    known = {short: full for short, full in SHORT_FORMS.items() if full.removeprefix("--") in keys}
    parts = [arg.partition("=") for arg in argv]
    return ["".join((known.get(name, name), *rest)) for name, *rest in parts]


def complete_flags(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Lets a boolean setting stand alone: `--resume` means `--resume true`."""
    completed = []
    for arg, following in zip(argv, [*argv[1:], "--"], strict=False):
        completed.append(arg)
        if arg.removeprefix("--") in flags and arg.startswith("--") and following.startswith("--"):
            completed.append("true")
    return completed


def explain(message: str, keys: Iterable[str], argv: Sequence[str]) -> str:
    """One sentence for a parser's message: the key, the value, what was expected, and where."""
    for pattern in UNKNOWN_KEY_PATTERNS:
        match = re.search(pattern, message)
        if match:
            group = match.groupdict().get("group")
            key = f"{group}.{match['key']}" if group else match["key"]
            nearest = nearest_key(key, keys)
            hint = f"; the nearest valid key is {nearest}" if nearest else "; see --help"
            return f"unknown key {key} in {_origin(key, argv)}{hint}"
    message = " ".join(message.split())
    message = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", message)
    message = re.sub(r"<class '(\w+)'>", r"\1", message)
    match = re.match(r'Parser key "(?P<key>[\w.]+)": (?P<rest>.*)', message)
    if match and match["key"] == "config":
        return f"--config: {match['rest']}"
    if match:
        key, rest, origin = match["key"], match["rest"], _origin(match["key"], argv)
        expected = re.match(r"Expected an? (?P<type>.*)\. Got value: (?P<value>.*)", rest)
        if not expected:
            return f"{key} in {origin}: {rest}"
        kind = expected["type"]
        kind = kind if kind.startswith("one of") else f"a value of type {kind}"
        return f"{key} is {expected['value']!r} in {origin}, expected {kind}"
    match = re.match(r"Problems parsing config: (?P<rest>.*)", message)
    if match:
        rest = match["rest"].replace('"<unicode string>", ', "")
        return f"{_origin('config', argv)} is no valid YAML: {rest}"
    if message.startswith("Unexpected config:") or "must be a mapping" in message:
        return f"{_origin('config', argv)} holds no settings, expected lines of `key: value`"
    match = re.match(r"[\w.]+", message)
    if match and match[0] in keys:  # a range that a dataclass refused
        return f"{message} (in {_origin(match[0], argv)})"
    if message.startswith("Exceeds the limit"):
        return f"{_origin('config', argv)} holds a number of thousands of digits"
    if message.startswith("Key must be a string"):
        return f"{_origin('config', argv)}: {message[0].lower()}{message[1:]}"
    files = config_files(argv)
    return f"{' or '.join(files)}: {message}" if files else message


def nearest_key(key: str, keys: Iterable[str]) -> str | None:
    """The valid key that is spelt most like `key`, comparing whole paths, then last parts."""
    keys = list(keys)
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    if close:
        return close[0]
    last_parts = {k.rsplit(".", 1)[-1]: k for k in reversed(keys)}
    close = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(last_parts), n=1, cutoff=0.6)
    return last_parts[close[0]] if close else None


def _origin(key: str, argv: Sequence[str]) -> str:
    if key != "config" and any(arg.split("=")[0] == f"--{key}" for arg in argv):
        return "the command line"
    return " or ".join(config_files(argv)) or "the command line"


def dump_config(config: Any) -> str:
    """The resolved settings as YAML that `--config` reads back."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, width=100)


def choose_command(prog: str, argv: Sequence[str], names: Iterable[str], usage: str) -> str | None:
    """The command that comes first in the arguments; None after printing the usage on request.

    Raises:
        UserError: when there is none of that name (the nearest is named) or none at all.
    """
    names = list(names)
    if argv and argv[0] in ("-h", "--help"):
        print(usage)
        return None
    if not argv:
        raise UserError(f"{prog} needs a command, expected one of {', '.join(names)}")
    if argv[0] not in names:
        nearest = nearest_key(argv[0], names)
        hint = f"; did you mean {nearest}?" if nearest else f"; expected {', '.join(names)}"
        raise UserError(f"unknown command {prog} {argv[0]}{hint}")
    return argv[0]


def run_function(function: Any, prog: str, argv: Sequence[str]) -> Any:
    """Calls a function whose parameters come from the command line; required ones by position.

    Help texts come from the function's docstring.

    Raises:
        UserError: as `parse_config`.
    """
    parser = ArgumentParser(prog=prog, exit_on_error=False)
    parser.add_function_arguments(function, as_positional=True)
    parameters = inspect.signature(function).parameters.values()
    argv = complete_flags(argv, [p.name for p in parameters if p.annotation is bool])
    try:
        namespace = parser.parse_args(argv)
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        options = [a.dest for a in parser._actions]
        raise UserError(explain(str(error), options, argv)) from error
    values = {k: v for k, v in vars(parser.instantiate(namespace)).items() if k != "config"}
    return function(**values)


def print_error(error: Exception | str) -> None:
    """Prints a failure as one sentence on standard error."""
    # Names of files may hold anything, also line breaks and what moves a terminal's cursor.
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))
    if len(text) > LONGEST_SENTENCE:
        half = LONGEST_SENTENCE // 2
        text = f"{text[:half]} [...] {text[-half:]}"
    print(f"oaa: error: {text}", file=sys.stderr, flush=True)
