"""Two processes that add up a tensor by gloo, as the ranks of a run do.

As a module it is one of them: `python -m dist_oaa.stages.examining.pair RANK PORT HANDLE`.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator

from dist_oaa.stages.examining.asking import Answer, Ended, finish, start

LOOPBACK, RANKS, VALUES = "127.0.0.1", 2, 1 << 18
PATIENCE_S = 10.0
"""How long a rank waits for the other; gloo's own limit is half an hour."""


def try_pair(limit_s: float, interface: str = "") -> Answer:
    """Starts both processes and compares what they found; neither outlives the call.

    Args:
        limit_s: the longest it may take, starting Python twice included.
        interface: the network interface that gloo is told to use; empty leaves it to gloo.
    """
    variables = {"GLOO_SOCKET_IFNAME": interface} if interface else {}
    command = [sys.executable, "-m", "dist_oaa.stages.examining.pair"]
    with _listening() as listener:
        port, handle = str(listener.getsockname()[1]), str(listener.fileno())
        processes = []
        try:
            # The first rank inherits the open port: nobody can take it in between.
            processes.append(start([*command, "0", port, handle], [int(handle)], **variables))
            processes.append(start([*command, "1", port, "-1"], **variables))
        finally:
            # Also where the second could not be started.
            ended = finish(processes, limit_s if len(processes) == RANKS else 0.0)
    return _judge(ended)


@contextlib.contextmanager
def _listening() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen(RANKS)
        yield listener


def _judge(ended: list[Ended]) -> Answer:
    said = [json.loads(end.output) if end.output else None for end in ended]
    failed = [rank for rank, answer in enumerate(said) if answer is None or ended[rank].reason]
    if failed:
        rank = failed[0]
        return Answer(error=f"rank {rank}: {ended[rank].reason or 'ended without an answer'}")
    wrong = [answer for answer in said if answer["sum"] != sum(range(1, RANKS + 1))]
    if wrong:
        return Answer(error=f"the sum of 1 and 2 over the ranks was {wrong[0]['sum']:g}")
    return Answer(value=said, seconds=max(answer["seconds"] for answer in said))


def rank_of_two(rank: int, port: int, handle: int) -> dict[str, float]:
    """One rank: rank r adds r + 1."""
    import datetime

    import torch
    import torch.distributed as dist

    patience = datetime.timedelta(seconds=PATIENCE_S)
    # Python starts at its own pace, gloo only once both are here.
    meeting = datetime.timedelta(seconds=6 * PATIENCE_S)
    place = {"master_listen_fd": handle} if handle >= 0 else {}
    store = dist.TCPStore(
        LOOPBACK, port, RANKS, is_master=rank == 0, timeout=meeting, wait_for_workers=False, **place
    )
    store.set(f"here {rank}", "1")
    store.wait([f"here {other}" for other in range(RANKS)], meeting)
    start_s = time.perf_counter()
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=patience)
    try:
        values = torch.full((VALUES,), float(rank + 1))
        dist.all_reduce(values)
        found = {"sum": float(values.mean()), "seconds": time.perf_counter() - start_s}
        dist.barrier()
    finally:
        dist.destroy_process_group()
    return found


def main() -> None:
    """One rank; prints its result as a line of JSON."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as pipe:
        os.dup2(2, 1)
        rank, port, handle = map(int, sys.argv[1:])
        print(json.dumps(rank_of_two(rank, port, handle)), file=pipe, flush=True)


if __name__ == "__main__":
    main()
