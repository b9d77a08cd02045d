"""Texts in CSV files that a spreadsheet shows instead of running them.

Spreadsheets take a cell that begins with = + - or @ (or with a tab or a carriage return before
it) for a formula, which can start programs. Such a text is written with an apostrophe in front,
which they take for `this is text`. Plain numbers run nothing and stay numbers.
"""

import re

FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def guarded(cell: object) -> object:
    """A cell as it is written: other than texts that could be formulas it stays what it is."""
    if isinstance(cell, str) and FORMULA.match(cell) and not NUMBER.fullmatch(cell):
        return "'" + cell
    return cell


def unguarded(text: str) -> str:
    """The inverse: a text as it was before `guarded`."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
