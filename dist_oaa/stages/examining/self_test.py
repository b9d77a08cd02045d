"""The trials of `oaa doctor`: what a run does, in small, each in processes of its own."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from dist_oaa.stages.examining.asking import Answer, ask
from dist_oaa.stages.examining.disk import nearest_folder
from dist_oaa.stages.examining.finding import Finding, guarded, in_time
from dist_oaa.stages.examining.pair import try_pair

SHARD_S, DEVICE_S, PAIR_S = 30.0, 120.0, 60.0
"""Longest times; usually each takes two or three seconds, most of it importing torch."""
SLOW_COMMIT_S = 1.0
TIDY_S = 10.0


def self_test(run_dir: Path, say: Callable[[str], None]) -> list[Finding]:
    """Tries everything.

    Args:
        say: told what is being tried.
    """
    say("a shard of the store")
    found = guarded("store", lambda: store(run_dir))
    say("the accumulation and a small network")
    found += guarded("devices", devices)
    say("two processes")
    return found + guarded("two processes", two_processes)


def store(run_dir: Path) -> Finding:
    """A shard on the disk of the run directory."""
    name = f".oaa-doctor-{os.getpid()}"
    try:
        answer = ask([("shard", str(run_dir), name)], SHARD_S)[0]
    finally:
        # Where its process was killed; never waited for long, the file server may be dead.
        in_time("store", lambda: _tidy(run_dir, name), TIDY_S, "")
    return judge_store(answer)


def _tidy(run_dir: Path, name: str) -> list[Finding]:
    shutil.rmtree(nearest_folder(run_dir) / name, ignore_errors=True)
    return []


def judge_store(answer: Answer) -> Finding:
    """The finding of the answer to `shard`."""
    advice = (
        "Set store.local_dir to a folder on a local disk, or choose another run_dir; `disk` above "
        "may tell more."
    )
    if answer.error:
        return Finding("store", f"failed: {answer.error}", "problem", advice, answer.seconds)
    facts = answer.value
    if not facts["equal"]:
        found = "what was read back is not what was written"
        return Finding("store", found, "problem", advice, answer.seconds, facts)
    found = (
        f"{facts['rows']} maps of a shard were committed in {1e3 * facts['commit_s']:.0f} ms, "
        "synced and read back"
    )
    if facts["commit_s"] > SLOW_COMMIT_S:
        return Finding("store", found, "warning", f"The disk is slow. {advice}", answer.seconds)
    return Finding("store", found, seconds=answer.seconds, facts=facts)


def devices() -> list[Finding]:
    """The update on every path, and a network on every device."""
    accumulation, network = ask([("accumulation",), ("network",)], DEVICE_S)
    return [judge_accumulation(accumulation), judge_network(network)]


def judge_accumulation(answer: Answer) -> Finding:
    """The finding of the answer to `accumulation`."""
    advice = "Maps made here could not be trusted: mend the driver or torch, then try again."
    if answer.error:
        found = f"failed: {answer.error}"
        return Finding("accumulation", found, "problem", advice, answer.seconds)
    facts = {"paths": answer.value}
    wrong = [f"{path}: {reason}" for path, reason in answer.value.items() if reason]
    if wrong:
        return Finding("accumulation", "; ".join(wrong), "problem", advice, answer.seconds, facts)
    found = f"equal to the reference, bit for bit: {'; '.join(answer.value)}"
    return Finding("accumulation", found, seconds=answer.seconds, facts=facts)


def judge_network(answer: Answer) -> Finding:
    """The finding of the answer to `network`."""
    advice = "Mend the driver or torch, or leave the device out by CUDA_VISIBLE_DEVICES."
    if answer.error:
        return Finding("network", f"failed: {answer.error}", "problem", advice, answer.seconds)
    failed = [f"{d}: {found['failed']}" for d, found in answer.value.items() if "failed" in found]
    failed += [
        f"{device}: gradients are off by {found['error']:.2g}"
        for device, found in answer.value.items()
        if not found.get("fits", True)
    ]
    facts = {"devices": answer.value}
    if failed:
        return Finding("network", "; ".join(failed), "problem", advice, answer.seconds, facts)
    found = f"forward and backward on {', '.join(answer.value)}"
    return Finding("network", found, seconds=answer.seconds, facts=facts)


def two_processes() -> Finding:
    """gloo as a run would use it; where that fails, over the loopback interface."""
    answer = try_pair(PAIR_S)
    if not answer.error:
        found = "met on this machine and added up a tensor by gloo"
        return Finding("two processes", found, seconds=answer.seconds)
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "")
    chosen = os.environ.get("GLOO_SOCKET_IFNAME", "")
    if loopback and loopback != chosen and not try_pair(PAIR_S, loopback).error:
        found = f"failed: {answer.error}; over the interface {loopback} they meet"
        advice = f"Set GLOO_SOCKET_IFNAME={loopback} for runs on this machine alone."
        return Finding("two processes", found, "problem", advice)
    advice = "Runs on several processes will fail: see `network` above, and local firewall rules."
    return Finding("two processes", f"failed: {answer.error}", "problem", advice)
