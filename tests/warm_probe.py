"""What a process can see of itself, as JSON; for the tests of `warm_processes`.

usage: warm_probe.py print | exit:CODE | raise | kill | wait:FILE | leave
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


def facts() -> dict:
    """All that shall be the same in a process that was forked and in one that was started."""
    own = Path("/proc/self")
    return {
        "argv": sys.argv,
        "path": sys.path[:2],
        "main": [__name__, __file__, sys.modules["__main__"].__dict__ is globals()],
        "command": own.joinpath("cmdline").read_bytes().rstrip(b"\0").decode().split("\0"),
        "environment": dict(os.environ),
        "inherited": subprocess.run(["env"], capture_output=True, text=True).stdout.split("\n"),
        "folder": os.getcwd(),
        "leads its session": os.getsid(0) == os.getpgid(0) == os.getpid(),
        "parent": os.getppid(),
        "files": sorted(int(path.name) for path in own.joinpath("fd").iterdir())[:-1],
        "input": sys.stdin.read(),
        "signals": [str(signal.getsignal(n)) for n in signal.valid_signals()],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "threads": [thread.name for thread in threading.enumerate()],
        "nice": os.nice(0),
        "umask": os.umask(0o22),
        "output": [sys.stdout.write_through, sys.stdout.encoding, sys.stdout.isatty()],
    }


def main(action: str) -> None:
    """Does what the first argument says."""
    name, _, argument = action.partition(":")
    if name == "print":
        # In one piece: ranks share a file.
        sys.stdout.write(json.dumps(facts(), sort_keys=True) + "\n")
    elif name == "exit":
        atexit.register(print, "at the end")
        sys.exit(int(argument))
    elif name == "raise":
        raise RuntimeError("of the probe")
    elif name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "leave":
        # Threads are waited for, as ever.
        threading.Thread(target=lambda: (time.sleep(0.2), print("the thread"))).start()
    elif name == "wait":
        Path(argument).write_text(str(os.getpid()))
        time.sleep(60)


if __name__ == "__main__":
    main(sys.argv[1])
