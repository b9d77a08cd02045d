"""`oaa` on a disk that fails at one generation; run by test_kill_and_resume.py.

usage: faulty_disk.py FAULT GENERATION classify ...

small-files        rank 1 may write no file beyond 8 KiB from then on: the system refuses
stuck-commit       rank 1 commits its first shard and then waits for ever
stuck-publication  rank 0 waits for ever before it writes the checkpoint
"""

import os
import resource
import sys
import threading

from dist_oaa import cli
from dist_oaa.runtime import loop
from dist_oaa.store.shard import Shard
from dist_oaa.store.writer import StoreWriter

RANK = int(os.environ.get("RANK", "0"))


def wait_for_ever() -> None:
    threading.Event().wait()


def small_files(fatal: int) -> None:
    commit = StoreWriter.commit

    def limited(self, generation, *rows):
        if generation == fatal and RANK == 1:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 10, hard))
        return commit(self, generation, *rows)

    StoreWriter.commit = limited


def stuck_commit(fatal: int) -> None:
    commit, reached = Shard.commit, []

    def stuck(self, generation, *rows):
        if generation == fatal and RANK == 1:
            reached.append(self.index)
            if len(reached) > 1:
                wait_for_ever()
        return commit(self, generation, *rows)

    Shard.commit = stuck


def stuck_publication(fatal: int) -> None:
    save = loop.save_checkpoint

    def stuck(folder, name, checkpoint, keep):
        if checkpoint.generation == fatal:
            wait_for_ever()
        save(folder, name, checkpoint, keep)

    loop.save_checkpoint = stuck


FAULTS = {
    "small-files": small_files,
    "stuck-commit": stuck_commit,
    "stuck-publication": stuck_publication,
}

if __name__ == "__main__":
    FAULTS[sys.argv[1]](int(sys.argv[2]))
    cli.main(sys.argv[3:])
