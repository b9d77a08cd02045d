"""Keeps the disk busy while LMDB is still handing pages to the system.

LMDB writes all pages of a transaction, which the system only keeps, and then waits until they are
on the disk: the disk rests first, and the processor afterwards. Asking the system now and then to
send what it has takes a fifth off a commit of 10,000 rows. Several shards that commit side by
side keep the disk busy by themselves.

What is durable, and when, stays LMDB's matter.
"""

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

SYNC_FILE_RANGE_WRITE = 2
PAUSE_S = 0.002


def start_of_writing() -> Callable[[int], object] | None:
    """A function that asks for a file's pages to be sent and does not wait; None if there is none.

    It is Linux's sync_file_range, which Python does not offer.
    """
    try:
        function = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return lambda file: function(file, 0, 0, SYNC_FILE_RANGE_WRITE)


@contextlib.contextmanager
def sent_early(paths: Iterable[Path]) -> Iterator[None]:
    """Sends what the block writes to these files to the disk as it comes."""
    start = start_of_writing()
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(path, "rb")).fileno() for path in paths]
        if start is None or not files:
            yield
            return
        done = threading.Event()

        def send() -> None:
            while not done.wait(PAUSE_S):
                for file in files:
                    start(file)

        thread = threading.Thread(target=send, name="oaa-writeback")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
