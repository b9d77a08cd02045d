"""The space of a sweep: which values a setting may take, and the points that are tried.

A point is a mapping from dotted setting to value. Points of a grid and random points are all known
before the first trial; they depend on the space, the number of samples and the seed alone.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.stages.launching.trees import as_mapping, check_keys

Point = dict[str, Any]

KINDS = ("grid", "choice", "uniform", "loguniform", "quniform", "randint")
RANGES = {"uniform": 2, "loguniform": 2, "quniform": 3, "randint": 2}
"""Kinds that are ranges, with the numbers that each one takes."""


@dataclass(frozen=True)
class Domain:
    """The values of one setting."""

    kind: str
    """`fixed` or one of KINDS."""
    values: tuple[Any, ...]
    """The values themselves, or the numbers of a range."""

    @property
    def varies(self) -> bool:
        """Whether there is more than one value."""
        return self.kind in RANGES or len(self.values) > 1

    @property
    def listed(self) -> bool:
        """Whether the values are listed one by one."""
        return self.kind not in RANGES

    def sample(self, random: np.random.Generator) -> Any:
        """A random value."""
        if self.listed:
            return self.values[int(random.integers(len(self.values)))]
        low, high = self.values[:2]
        if self.kind == "randint":
            return int(random.integers(low, high))
        if self.kind == "loguniform":
            return float(math.exp(random.uniform(math.log(low), math.log(high))))
        value = float(random.uniform(low, high))
        if self.kind == "quniform":
            step = self.values[2]
            value = min(max(round(value / step) * step, low), high)
        return round(value, 12)

    def ends(self) -> tuple[Any, ...]:
        """All listed values, or the two ends of a range: what a check has to look at."""
        if self.listed:
            return self.values
        low, high = self.values[:2]
        return (int(low), int(high) - 1) if self.kind == "randint" else (low, high)


Space = dict[str, Domain]


def read_spaces(tree: object, where: str) -> list[Space]:
    """The spaces that a settings file holds, one or several.

    Raises:
        UserError: naming the setting that is wrong.
    """
    entries = tree if isinstance(tree, list) else [tree]
    spaces = [read_space(entry, f"space in {where}") for entry in entries]
    if not any(domain.varies for space in spaces for domain in space.values()):
        raise UserError(f"space in {where} has no setting with more than one value to try")
    return spaces


def read_space(tree: object, where: str) -> Space:
    """One space.

    Raises:
        UserError: naming the setting that is wrong.
    """
    tree = as_mapping(tree, where)
    space: Space = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and not set(value) & set(KINDS):
            # Nested settings, `drop: {delta: {grid: [...]}}`.
            nested = read_space(value, f"{key} in {where}")
            space |= {f"{key}.{inner}": domain for inner, domain in nested.items()}
        else:
            space[str(key)] = read_domain(value, f"{key} of {where}")
    return space


def read_domain(value: object, where: str) -> Domain:
    """The values of one setting.

    Raises:
        UserError: when a kind does not exist, or its numbers make no range.
    """
    if not isinstance(value, Mapping):
        return Domain("fixed", (value,))
    check_keys(value, KINDS, where)
    if len(value) != 1:
        raise UserError(f"{where} has {', '.join(value)}, expected one of {', '.join(KINDS)}")
    kind, values = next(iter(value.items()))
    if not isinstance(values, list) or not values:
        raise UserError(f"{where} is {{{kind}: {values}}}, expected a list of values")
    if kind not in RANGES:
        if len({json.dumps(v) for v in values}) < len(values):
            raise UserError(f"{where} is {{{kind}: {values}}}, expected each value once")
        return Domain(kind, tuple(values))
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    wanted = "LOW, HIGH, STEP" if kind == "quniform" else "LOW, HIGH"
    if len(numbers) != len(values) or len(values) != RANGES[kind] or not values[0] < values[1]:
        raise UserError(f"{where} is {{{kind}: {values}}}, expected [{wanted}] with LOW < HIGH")
    if (kind == "loguniform" and values[0] <= 0) or (kind == "quniform" and values[2] <= 0):
        raise UserError(f"{where} is {{{kind}: {values}}}, expected numbers above 0")
    if kind == "randint" and not all(isinstance(v, int) for v in values):
        raise UserError(f"{where} is {{{kind}: {values}}}, expected whole numbers")
    return Domain(kind, tuple(values))


def grid(spaces: Sequence[Space]) -> list[Point]:
    """Every combination of the listed values, space after space, each point once.

    Raises:
        UserError: when a setting has a range.
    """
    points: list[Point] = []
    for space in spaces:
        for key, domain in space.items():
            if not domain.listed:
                raise UserError(
                    f"space has {key}: {domain.kind}, but search.method grid takes listed values "
                    "only: {grid: [...]}"
                )
        for values in itertools.product(*(domain.values for domain in space.values())):
            points.append(dict(zip(space, values, strict=True)))
    return unique(points)


def random_points(space: Space, samples: int, seed: int) -> list[Point]:
    """Random points, each once: fewer than `samples` where the space has no more."""
    random = np.random.default_rng(seed)
    points: list[Point] = []
    for _ in range(20):  # rounds; a small space repeats itself
        missing = samples - len(points)
        drawn = [{k: d.sample(random) for k, d in space.items()} for _ in range(missing)]
        points = unique([*points, *drawn])
        if len(points) >= samples:
            break
    return points


def corners(space: Space) -> list[Point]:
    """Points that hold every listed value and both ends of every range, as few as do."""
    ends = [domain.ends() for domain in space.values()]
    count = max(len(each) for each in ends)
    return [
        {key: each[min(n, len(each) - 1)] for key, each in zip(space, ends, strict=True)}
        for n in range(count)
    ]


def unique(points: Sequence[Point]) -> list[Point]:
    """The points without repetitions, in order."""
    return list({json.dumps(point, sort_keys=True): point for point in points}.values())


def varied(spaces: Sequence[Space]) -> list[str]:
    """The settings that take more than one value, in order."""
    keys = dict.fromkeys(key for space in spaces for key in space)
    found = []
    for key in keys:
        domains = [space[key] for space in spaces if key in space]
        values = {json.dumps(v) for domain in domains for v in domain.values}
        if any(domain.varies for domain in domains) or len(values) > 1:
            found.append(key)
    return found


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key; the whole key where two end alike."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return {
        key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)
    }


def describe(point: Mapping[str, Any], keys: Sequence[str]) -> str:
    """A point in words, such as `delta 0.6, beta 0.5`; floats with four significant digits."""
    names = short_names(keys)
    values = {k: point[k] for k in keys if k in point}
    return ", ".join(f"{names[k]} {number(v)}" for k, v in values.items())


def share(metric: str) -> bool:
    """Whether a figure is a share, shown in percent; a loss is none."""
    return "loss" not in metric


def shown(metric: str, value: float) -> str:
    """A figure as people read it."""
    return f"{100 * value:.1f}" if share(metric) else f"{value:.4g}"


def unit(metric: str) -> str:
    """What stands behind it."""
    return " %" if share(metric) else ""


def number(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "''" if value == "" else str(value)
