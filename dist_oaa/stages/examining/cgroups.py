"""What a container or a batch system lets this process have: limits of its control groups."""

from collections.abc import Iterator
from pathlib import Path

UNLIMITED = 1 << 60
"""Version 1 writes a number near 2^63 where there is no limit."""


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes of memory this process may use; None without a limit."""
    found = [
        _number(folder / name)
        for controller, name in (("", "memory.max"), ("memory", "memory.limit_in_bytes"))
        for folder in _folders(root, controller)
    ]
    limits = [limit for limit in found if limit is not None and 0 < limit < UNLIMITED]
    return min(limits, default=None)


def cores_limit(root: Path = Path("/")) -> float | None:
    """Cores whose time this process may use, such as 2.5; None without a quota."""
    limits = []
    for folder in _folders(root, ""):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            limits.append(int(quota) / int(period))
    for folder in _folders(root, "cpu"):
        quota_us, period_us = (_number(folder / f"cpu.cfs_{n}_us") for n in ("quota", "period"))
        if quota_us and period_us and quota_us > 0:
            limits.append(quota_us / period_us)
    return min(limits, default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders that limit this process, from the outermost; `controller` is empty in version 2.

    In a container the path that /proc tells may be the host's; the outermost folder is then the
    container's own.
    """
    base = root / "sys/fs/cgroup" / controller
    yield base
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            parts = [part for part in path.split("/") if part not in ("", "..")]
            yield from (base.joinpath(*parts[:count]) for count in range(1, len(parts) + 1))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.lstrip("-").isdigit() else None
