"""The three ways a run ends early, each with its exit code (0 is success, 1 anything else)."""


class UserError(Exception):
    """A mistake the user can mend: one sentence that names the file, the key and what was expected.

    The command line prints the sentence on one rank, without a traceback, and exits with code 2.
    """

    exit_code = 2


class RunError(Exception):
    """The run cannot go on through no mistake in its input (a non-finite loss): exit code 1."""

    exit_code = 1


class LostContact(RunError):
    """The ranks do not meet any more; each says what it saw, unlike with the other errors.

    Args:
        speaks: whether this rank is the one of its node that prints it.
    """

    def __init__(self, sentence: str, speaks: bool = True) -> None:
        super().__init__(sentence)
        self.speaks = speaks


class Interrupted(Exception):
    """A signal asked for a stop; a checkpoint was written: exit code 75, go on with --resume."""

    exit_code = 75


def in_one_line(words: object, limit: int = 200) -> str:
    """What a library has said, for a sentence of ours: no line breaks, and no more than `limit`.

    Args:
        words: an exception or a string.
        limit: characters; what is longer ends with a whole word and " ...".
    """
    text = " ".join(str(words).split())
    if len(text) <= limit:
        return text
    head = text[: limit - 3].rpartition(" ")[0] or text[: limit - 4]
    return f"{head} ..."
