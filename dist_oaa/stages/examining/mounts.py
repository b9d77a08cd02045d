"""Which file system a folder lies on."""

import re
from dataclasses import dataclass
from pathlib import Path

NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs",
    "panfs", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs", "wekafs",
}  # fmt: skip
LOCAL_FUSE = {"fuseblk", "fuse.fuse-overlayfs", "fuse.lxcfs"}
MEMORY = {"tmpfs", "ramfs"}
LAYERS = {"overlay", "aufs", "fuse.fuse-overlayfs"}


@dataclass(frozen=True)
class Mount:
    """Where a file system is mounted, and what it is."""

    point: str
    kind: str
    """As the kernel calls it: ext4, nfs4, overlay."""
    source: str

    @property
    def is_network(self) -> bool:
        """Whether other machines may write the same files; FUSE (sshfs, s3fs) counts as such."""
        return self.kind in NETWORK or (
            self.kind.startswith("fuse") and self.kind not in LOCAL_FUSE
        )


def mount_of(path: Path, table: Path = Path("/proc/self/mountinfo")) -> Mount | None:
    """The file system of a path that exists; None where the system does not tell.

    The later of two mounts on one point hides the earlier one.
    """
    try:
        lines = table.read_text("utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    real, best = path.resolve(), None
    for mount in filter(None, map(_parsed, lines)):
        inside = real == Path(mount.point) or Path(mount.point) in real.parents
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _parsed(line: str) -> Mount | None:
    """A line of mountinfo, proc(5): `36 35 98:0 /root /point options ... - ext4 source options`."""
    before, dash, after = line.partition(" - ")
    fields, system = before.split(" "), after.split(" ")
    if not dash or len(fields) < 5 or len(system) < 2:
        return None
    return Mount(_plain(fields[4]), system[0], _plain(system[1]))


def _plain(text: str) -> str:
    r"""Spaces and the like are written in octal there: `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
