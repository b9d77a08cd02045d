"""The processor, the memory and the GPUs that this process may use."""

import os
from pathlib import Path
from typing import Any

from dist_oaa.stages.examining.asking import Answer
from dist_oaa.stages.examining.cgroups import cores_limit, memory_limit
from dist_oaa.stages.examining.finding import Finding, size_text
from dist_oaa.stages.launching.processes import processor_name

LITTLE_MEMORY, LITTLE_GPU_MEMORY = 2 << 30, 2 << 30


def processor(root: Path = Path("/")) -> Finding:
    """The cores; a container's quota of their time is not what threads are counted by."""
    known = hasattr(os, "sched_getaffinity")
    all_cores = os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0)) if known else all_cores
    quota = cores_limit(root)
    found = f"{processor_name()}; {cores} of {all_cores} cores"
    facts = {"cores": cores, "cores_of_machine": all_cores, "quota": quota}
    if quota is not None and quota < 0.75 * cores:
        found += f", but the time of {quota:g} only"
        advice = (
            f"This container may use the time of {quota:g} cores: set runtime.threads to "
            f"{max(1, int(quota))} and data.workers to no more."
        )
        return Finding("processor", found, "warning", advice, facts=facts)
    return Finding("processor", found, facts=facts)


def memory(root: Path = Path("/")) -> Finding:
    """Total and free memory, within the limit of a container."""
    sizes = _meminfo(root)
    total, free = sizes.get("MemTotal"), sizes.get("MemAvailable")
    limit = memory_limit(root)
    facts = {"total": total, "available": free, "limit": limit}
    if total is None:
        return Finding("memory", "not known on this system", facts=facts)
    found = size_text(total)
    if limit is not None and limit < total:
        found += f", limited to {size_text(limit)} here"
    if free is not None:
        found += f"; {size_text(free)} free"
    if min(size for size in (total, free, limit) if size is not None) < LITTLE_MEMORY:
        advice = "Lower data.workers and optim.batch_size: a run takes 1 GiB and more a process."
        return Finding("memory", found, "warning", advice, facts=facts)
    return Finding("memory", found, facts=facts)


def _meminfo(root: Path) -> dict[str, int]:
    try:
        lines = (root / "proc/meminfo").read_text("utf-8").splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines]
    return {w[0].rstrip(":"): int(w[1]) << 10 for w in words if len(w) == 3 and w[2] == "kB"}


def gpus(answer: Answer) -> list[Finding]:
    """The GPUs, or why there are none.

    Args:
        answer: to `cuda`.
    """
    if answer.error:
        advice = "Runs on this machine's GPUs will fail likewise: mend torch or its driver first."
        return [Finding("GPU", f"torch cannot tell: {answer.error}", "problem", advice)]
    facts = answer.value
    if not facts["available"]:
        return [_none(facts)]
    driver = facts["driver"] or "of unknown version"
    found = [Finding("GPU driver", f"{driver}; torch is built for {facts['built']}", facts=facts)]
    if facts["said"]:
        found[0] = Finding(
            "GPU driver", f"{found[0].found}; torch says: {facts['said'][0]}", "warning",
            "Do what torch says: usually a newer driver, or a torch built for this one.",
            facts=facts,
        )  # fmt: skip
    return found + [_gpu(i, gpu, facts["compiled_for"]) for i, gpu in enumerate(facts["gpus"])]


def _none(facts: dict[str, Any]) -> Finding:
    cards, built = facts["in_machine"], facts["built"]
    seen = f"{cards} NVIDIA card{'s' * (cards != 1)} in this machine" if cards else "none seen"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not built:
        found = f"{seen}; torch is built for CPUs only"
        advice = "Install a torch that is built for CUDA to use the card."
    elif hidden is not None and hidden.strip() in ("", "-1"):
        found = f"{seen}; CUDA_VISIBLE_DEVICES hides all"
        advice = "Unset CUDA_VISIBLE_DEVICES to use the card."
    else:
        found = f"{seen}; torch is built for CUDA {built}, but no driver answers"
        advice = "Install NVIDIA's driver, or start the container with --gpus all."
    if facts["said"]:
        found += f" ({facts['said'][0]})"
    if cards or facts["driver"]:
        return Finding("GPU", found, "warning", f"Runs take the CPU. {advice}", facts=facts)
    return Finding("GPU", f"{found}; runs take the CPU", facts=facts)


def _gpu(index: int, gpu: dict[str, Any], compiled_for: list[str]) -> Finding:
    major, minor = gpu["capability"]
    found = (
        f"{gpu['name']}, compute capability {major}.{minor}, {size_text(gpu['memory'])}, "
        f"{size_text(gpu['free'])} free"
    )
    name = f"GPU {index}"
    if not can_run(compiled_for, major, minor):
        advice = f"Install a torch that is built for it; this one knows {', '.join(compiled_for)}."
        return Finding(name, found, "problem", advice, facts=gpu)
    if gpu["free"] < LITTLE_GPU_MEMORY:
        advice = "Another process holds its memory: see nvidia-smi, or choose another GPU."
        return Finding(name, found, "warning", advice, facts=gpu)
    return Finding(name, found, facts=gpu)


def can_run(compiled_for: list[str], major: int, minor: int) -> bool:
    """Whether torch has code for a compute capability.

    Machine code (sm_86) serves its own major version from its minor one up; code that the driver
    compiles (compute_80) every later one. What is not NVIDIA's is left to its driver.
    """
    known = [name.partition("_") for name in compiled_for]
    if not any(kind in ("sm", "compute") for kind, _, _ in known):
        return True
    for kind, _, number in known:
        digits = number.rstrip("af")  # sm_90a: for that one alone, which it then is
        if not digits.isdigit():
            continue
        of = divmod(int(digits), 10)
        if kind == "sm" and of[0] == major and of[1] <= minor:
            return True
        if kind == "compute" and of <= (major, minor):
            return True
    return False
