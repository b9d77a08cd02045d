"""One way for all readers to say what is wrong with a data set: stop at once, or collect.

A reader calls `problems.add(kind, sentence)` and goes on without the faulty entry. For a run the
first call raises; for `oaa data check` the same readers report everything in one pass.
"""

from dataclasses import dataclass

from dist_oaa.config.errors import UserError

KINDS = {
    "layout": "Data set cannot be opened",
    "outside": "Names that cannot be used, or leave the root",
    "missing": "Missing files",
    "corrupt": "Unreadable files",
    "duplicate": "Duplicate ids",
    "unlabelled": "Images without a label",
    "unknown_class": "Unknown classes",
    "unboxed": "Images without a box",
    "box": "Boxes that cannot be used",
    "mask_size": "Masks of another size than their image",
    "mask_index": "Masks with an unknown index",
}
"""The kinds of problem, in the order of the report, with their headings."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a data set: its kind (a key of KINDS) and the sentence that describes it."""

    kind: str
    message: str


class Problems:
    """The default: the first problem raises `UserError` with its sentence."""

    def add(self, kind: str, message: str) -> None:
        """Report one problem; whoever calls must be able to go on after it."""
        assert kind in KINDS, kind
        raise UserError(message)


class CollectedProblems(Problems):
    """Keeps every problem in `found`, in the order of their discovery, and never raises."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, kind: str, message: str) -> None:
        """Keep the problem; the reader goes on with the next entry."""
        assert kind in KINDS, kind
        self.found.append(Problem(kind, message))
