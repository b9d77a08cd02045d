"""File handles, the clock and the environment variables that change how runs go."""

import resource
import time
from collections.abc import Mapping
from pathlib import Path

from dist_oaa.stages.examining.finding import Finding

FEW_HANDLES, TOO_FEW_HANDLES, ENOUGH_HANDLES = 1024, 256, 65536
STEP_S = 0.5
"""How far the wall clock may leave the monotonic one while the command runs."""

PREFIXES = ("NCCL_", "TORCH_", "GLOO_", "PYTORCH_", "TRITON_", "OMP_", "MKL_", "CUDA_", "CUBLAS_")
NAMES = ("CC", "LD_PRELOAD", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
OURS = ("TORCH_CPP_LOG_LEVEL", "ERROR")
"""Set by the command line itself."""
SLOWER = {
    "CUDA_LAUNCH_BLOCKING": "1",
    "TORCH_DISTRIBUTED_DEBUG": "DETAIL",
    "NCCL_P2P_DISABLE": "1",
    "NCCL_SHM_DISABLE": "1",
    "NCCL_IB_DISABLE": "1",
}
"""Variables that slow a run down, with the value that does."""
WORLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


def file_handles() -> Finding:
    """`ulimit -n`: data workers and shards take them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    facts = {"soft": soft, "hard": hard}
    if soft == resource.RLIM_INFINITY:
        return Finding("file handles", "unlimited", facts=facts)
    found = f"{soft} (ulimit -n); up to {most} can be asked for"
    if soft < FEW_HANDLES:
        state = "problem" if soft < TOO_FEW_HANDLES else "warning"
        wanted = ENOUGH_HANDLES if hard == resource.RLIM_INFINITY else min(ENOUGH_HANDLES, hard)
        advice = f"Say `ulimit -n {wanted}` before a run."
        if wanted < FEW_HANDLES:
            advice = "Have the limit raised: limits.conf, or --ulimit nofile=65536 of a container."
        return Finding("file handles", found, state, advice, facts=facts)
    return Finding("file handles", found, facts=facts)


class Clock:
    """Watches the wall clock from its construction on."""

    def __init__(self) -> None:
        self._wall, self._monotonic = time.time(), time.monotonic()

    def finding(self) -> Finding:
        """Whether it kept pace with the monotonic clock, and is not in the past."""
        wall, passed = time.time(), time.monotonic() - self._monotonic
        drift = wall - self._wall - passed
        zone = time.strftime("%Z, UTC%z", time.localtime(wall))
        found = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(wall))} {zone}"
        facts = {"drift_s": drift, "watched_s": passed, "wall": wall}
        installed = Path(__file__).stat().st_mtime
        if abs(drift) > STEP_S:
            found += f"; set {'forward' if drift > 0 else 'back'} by {abs(drift):.1f} s just now"
            advice = "Let NTP settle before a run: times in its logs would jump."
            return Finding("clock", found, "warning", advice, facts=facts)
        if wall < installed - 1:
            found += "; dist_oaa was installed after that"
            advice = "Set the clock (NTP): certificates and the order of files rest on it."
            return Finding("clock", found, "warning", advice, facts=facts)
        found += f"; drift {1e3 * drift:+.1f} ms in {passed:.1f} s"
        return Finding("clock", found, facts=facts)


def variables(environment: Mapping[str, str], has_gpu: bool) -> list[Finding]:
    """Each variable that is set and matters, or a word that none is."""
    chosen = {
        name: value
        for name, value in sorted(environment.items())
        if (name.startswith(PREFIXES) or name in NAMES) and (name, value) != OURS
    }
    found = [_variable(name, value, has_gpu) for name, value in chosen.items()]
    if "OMP_NUM_THREADS" not in chosen:
        found.append(Finding("OMP_NUM_THREADS", "not set: torchrun sets 1 for several processes"))
    return found


def _variable(name: str, value: str, has_gpu: bool) -> Finding:
    shown = value if value else "(empty)"
    if name == "OMP_NUM_THREADS" and not (value.isdigit() and int(value) > 0):
        return Finding(name, shown, "warning", f"Set {name} to a count of 1 or more, or unset it.")
    if name in WORLD:
        advice = f"Unset {name}, but under torchrun: a run takes itself for one of several ranks."
        return Finding(name, shown, "warning", advice)
    if name in SLOWER and value.upper() == SLOWER[name] and (has_gpu or name.startswith("TORCH")):
        return Finding(
            name, shown, "warning", f"Unset {name} when it is not needed: it costs time."
        )
    return Finding(name, shown)
