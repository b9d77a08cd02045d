"""Which images a prediction is made of, and the name under which the results of each appear."""

import itertools
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.data.images import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Source:
    """An image to predict."""

    path: Path
    """As the user would write it: what he gave, or below what he gave."""
    name: str
    """Relative path of its results without suffix, with forward slashes; no two are alike, even
    where case does not count."""


def find_sources(given: Sequence[str]) -> list[Source]:
    """The images among files and folders, in the order given, those of a folder in name order.

    A file counts whatever its name says. Folders are searched with all that is below them;
    hidden entries, links to folders and files that are not images by their suffix are passed
    over. An image that is reached twice counts once.

    Raises:
        UserError: nothing is given, something does not exist, or a folder holds no image.
    """
    if not given:
        raise UserError("no image is given, expected image files or folders after the checkpoint")
    found: dict[str, tuple[Path, int]] = {}
    for entry in given:
        path = Path(entry)
        if path.is_dir():
            below = list(_images_below(path))
            if not below:
                raise UserError(
                    f"{path} holds no image, expected files ending in {' '.join(IMAGE_SUFFIXES)}"
                )
        elif path.exists():
            below = [path]
        else:
            raise UserError(f"{path} does not exist, expected an image or a folder of images")
        for file in below:
            # Parts that are kept of its path: below a folder all from there on.
            depth = len(file.relative_to(path).parts) if path.is_dir() else 1
            found.setdefault(os.path.abspath(file), (file, depth))
    names = distinct_names([(Path(full), depth) for full, (_, depth) in found.items()])
    return [Source(file, name) for (file, _), name in zip(found.values(), names, strict=True)]


def _images_below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        # In place: os.walk goes on with what is left, in this order.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


def distinct_names(files: Sequence[tuple[Path, int]]) -> list[str]:
    """A name for each of some files: the last parts of its path, without the suffix.

    Where two would be called the same, both keep more of their paths (`a/cat` and `b/cat`), and
    where only the suffix tells them apart, both keep that (`cat.jpg` and `cat.png`).

    Args:
        files: absolute paths, no two alike, each with the number of parts to keep at least.
    """
    parts = [file.with_suffix("").parts[1:] for file, _ in files]
    depths = [depth for _, depth in files]
    while longer := [
        index
        for group in _alike(["/".join(p[-d:]) for p, d in zip(parts, depths, strict=True)])
        for index in group
        # Of the same path but for the suffix, or for case, more of it would not help.
        if depths[index] < len(parts[index])
        and len({"/".join(parts[i]).casefold() for i in group}) > 1
    ]:
        for index in longer:
            depths[index] += 1
    names = ["/".join(p[-d:]) for p, d in zip(parts, depths, strict=True)]
    for group in _alike(names):
        for index in group:
            names[index] += files[index][0].suffix
    for group in _alike(names):
        # `Cat.jpg` beside `cat.jpg`: a number is all that is left.
        for index in group[1:]:
            names[index] = _numbered(names[index], {name.casefold() for name in names})
    return names


def _alike(names: Sequence[str]) -> list[list[int]]:
    """Groups of two or more names that are the same where case does not count, as positions."""
    groups = defaultdict(list)
    for index, name in enumerate(names):
        groups[name.casefold()].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _numbered(name: str, taken: set[str]) -> str:
    """The name with the first number from 2 on that makes it none of those taken."""
    return next(new for n in itertools.count(2) if (new := f"{name}-{n}").casefold() not in taken)
