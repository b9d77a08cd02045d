"""What torch and its neighbours say of themselves; answered in a process of its own."""

import importlib
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

NVIDIA = "0x10de"
DISPLAY_CLASSES = ("0x0300", "0x0302")
"""PCI classes of graphics cards and of those without a screen."""


def import_of(name: str) -> str:
    """The version of a package, once it is imported.

    Raises:
        ImportError, OSError: when it cannot be; the message tells more.
    """
    return str(getattr(importlib.import_module(name), "__version__", ""))


def cuda() -> dict[str, Any]:
    """Which GPUs torch was built for, and which it can reach."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
        gpus = [gpu(i) for i in range(torch.cuda.device_count())] if available else []
        compiled_for = torch.cuda.get_arch_list()
    return {
        "built": torch.version.cuda or torch.version.hip,
        "available": available,
        "compiled_for": compiled_for,
        "gpus": gpus,
        "driver": driver_version(),
        "in_machine": nvidia_cards(),
        "said": [" ".join(str(warning.message).split()) for warning in caught],
    }


def gpu(index: int) -> dict[str, Any]:
    """One GPU; memory in bytes."""
    import torch

    free, total = torch.cuda.mem_get_info(index)
    return {
        "name": torch.cuda.get_device_name(index),
        "capability": list(torch.cuda.get_device_capability(index)),
        "memory": total,
        "free": free,
    }


def driver_version() -> str:
    """The version of NVIDIA's driver; empty where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool:
        command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
            return said.stdout.split("\n", 1)[0].strip()
        except (OSError, subprocess.SubprocessError):
            pass  # broken tools come with broken drivers: the kernel knows its own module
    try:
        said = Path("/sys/module/nvidia/version").read_text("utf-8")
    except OSError:
        return ""
    return said.strip()


def nvidia_cards(bus: Path = Path("/sys/bus/pci/devices")) -> int:
    """NVIDIA cards on the bus, whether or not a driver answers."""
    count = 0
    for device in bus.glob("*"):
        try:
            vendor = (device / "vendor").read_text("utf-8").strip()
            kind = (device / "class").read_text("utf-8").strip()
        except OSError:
            continue
        count += vendor == NVIDIA and kind.startswith(DISPLAY_CLASSES)
    return count


def backends() -> dict[str, Any]:
    """Which ways of torch.distributed are there."""
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        return {"gloo": False, "nccl": ""}
    nccl = ""
    if dist.is_nccl_available():
        nccl = ".".join(map(str, torch.cuda.nccl.version())) or "of unknown version"
    return {"gloo": dist.is_gloo_available(), "nccl": nccl}


def native_problem() -> str:
    """Why the C++ update cannot be used; empty where it can."""
    from dist_oaa.attention import native

    return native.problem() or ""
