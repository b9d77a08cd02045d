"""Names that come out of data files, kept inside the root of the data set.

An id is also the name under which later stages write maps and labels, so it must be a plain
relative path: a list that says `../../home/x` could otherwise read or overwrite anything.
"""

import os
import unicodedata
from pathlib import Path, PurePosixPath

from dist_oaa.config.errors import UserError
from dist_oaa.data.problems import Problems

UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories of control characters, of bytes that are not UTF-8, and of line breaks."""
LONGEST_PART = 255
"""Bytes of a file's or folder's name that Linux and other systems allow."""


def relative_name(name: str) -> str:
    """Return `name` as a normalised relative path with forward slashes (`./a//b` -> `a/b`).

    Raises:
        UserError: the name is empty, absolute, has a `..` part, a line break, another control
            character, bytes that are not UTF-8, or a part that no file system can hold.
    """
    pure = PurePosixPath(name)
    if not pure.parts:
        raise UserError(f"{name!r} names no file, expected a path relative to the data-set root")
    if pure.is_absolute() or Path(name).is_absolute():
        raise UserError(f"{name!r} is absolute, expected a path relative to the data-set root")
    if ".." in pure.parts or "\0" in name:
        raise UserError(f"{name!r} may leave the data-set root, expected a path without '..'")
    if not is_printable(name):
        raise UserError(
            f"{name!r} has a line break, a control character or bytes that are not UTF-8, "
            "expected a name that fits one line of text: rename the file"
        )
    if max(len(part.encode()) for part in pure.parts) > LONGEST_PART:
        raise UserError(f"{name[:40]!r}... is too long to be a file's name")
    return str(pure)


def is_printable(name: str) -> bool:
    """Whether a name survives every list, table and message: one line of UTF-8 text."""
    return not any(unicodedata.category(c) in UNPRINTABLE for c in name)


def inside(root: Path, relative: str) -> Path:
    """Return `root / relative`, certain to lie inside `root` after following every symbolic link.

    The file need not exist. The result keeps the links of the root's own path.

    Raises:
        UserError: see `relative_name`, or a symbolic link on the way leads out of the root.
    """
    path = root / relative_name(relative)
    real_root, real = os.path.realpath(root), os.path.realpath(path)
    # Joining with "" puts exactly one separator at the end, also where the root is "/".
    if real != real_root and not real.startswith(os.path.join(real_root, "")):
        raise UserError(
            f"{relative!r} leads out of the data-set root {root} to {real} through a symbolic "
            "link, expected a file inside the root"
        )
    return path


def inside_or_report(root: Path, relative: str, where: str, problems: Problems) -> Path | None:
    """Return `inside(root, relative)`, or None after reporting that `where` leads elsewhere."""
    try:
        return inside(root, relative)
    except UserError as error:
        problems.add("outside", f"{where}: {error}")
        return None
