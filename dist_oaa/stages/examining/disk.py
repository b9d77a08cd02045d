"""The disk of the run directory, and the shared memory of the data workers."""

import os
import tempfile
import time
from pathlib import Path

from dist_oaa.stages.examining.finding import Finding, size_text
from dist_oaa.stages.examining.mounts import LAYERS, MEMORY, Mount, mount_of

LITTLE_SPACE, NO_SPACE = 5 << 30, 256 << 20
FEW_FILES = 20_000
"""Free inodes; stages that write a file an image want more."""
LITTLE_SHARED, NO_SHARED = 1 << 30, 64 << 20
SKEW_S = 2.0
"""Time stamps that are coarser than this are found on FAT alone."""
DEAD = "Its file server may be down: look at `df` and at the mount, or choose another run_dir."


def nearest_folder(run_dir: Path) -> Path:
    """The folder itself, or where it would be made: its nearest parent that can be reached."""
    place = run_dir.absolute()
    while not os.path.exists(place) and place != place.parent:
        place = place.parent
    return place


def space(run_dir: Path) -> Finding:
    """Free space and free file names."""
    place = nearest_folder(run_dir)
    disk = os.statvfs(place)
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    names = disk.f_favail if disk.f_files else None  # some file systems have no such table
    facts = {"place": str(place), "free": free, "total": total, "free_files": names}
    found = f"{size_text(free)} of {size_text(total)} free at {place}"
    advice = "Make room, or choose a run_dir on another disk: checkpoints and maps go there."
    if free < LITTLE_SPACE:
        state = "problem" if free < NO_SPACE else "warning"
        return Finding("free space", found, state, advice, facts=facts)
    if names is not None and names < FEW_FILES:
        found += f", but for {names} more files only"
        return Finding("free space", found, "warning", advice, facts=facts)
    return Finding("free space", found, facts=facts)


def file_system(run_dir: Path, table: Path = Path("/proc/self/mountinfo")) -> Finding:
    """Its kind; the store's shards want a local disk."""
    mount = mount_of(nearest_folder(run_dir), table)
    if mount is None:
        return Finding("file system", "not known on this system")
    facts = {"kind": mount.kind, "point": mount.point, "source": mount.source}
    found = f"{mount.kind} at {mount.point}"
    if mount.is_network:
        advice = (
            "Set store.local_dir to a folder on a local disk of each node"
            f"{_such_as(table)}: LMDB's files are no friends of network file systems; checkpoints "
            "copy them to run_dir."
        )
        return Finding("file system", f"{found}, over a network", "warning", advice, facts=facts)
    if mount.kind in LAYERS:
        advice = (
            "Mount a volume of the host and put run_dir there (on a network volume with "
            "store.local_dir): what a container writes into its own layer goes with it."
        )
        return Finding("file system", f"{found}, of a container", "warning", advice, facts=facts)
    if mount.kind in MEMORY:
        advice = (
            "Choose a run_dir on a disk: this is memory, which a restart empties; for "
            "store.local_dir it will do."
        )
        return Finding("file system", f"{found}, in memory", "warning", advice, facts=facts)
    return Finding("file system", found, facts=facts)


def _such_as(table: Path) -> str:
    """Names a folder that would serve as store.local_dir here, if the usual one does."""
    folder = Path(tempfile.gettempdir())
    mount: Mount | None = mount_of(folder, table)
    return f", such as {folder / 'oaa'}" if mount is not None and not mount.is_network else ""


def stamps(run_dir: Path) -> Finding:
    """Writes a file and holds its time stamp against this machine's clock.

    Writing is also what tells best whether the folder can be written.
    """
    place = nearest_folder(run_dir)
    try:
        before = time.time()
        with tempfile.NamedTemporaryFile(prefix=".oaa-doctor-", dir=place) as file:
            file.write(b"now")
            file.flush()
            os.fsync(file.fileno())
            stamp = os.fstat(file.fileno()).st_mtime
        after = time.time()
    except OSError as error:
        advice = "Choose a run_dir that you may write, or ask for the right to."
        found = f"{place} cannot be written: {error.strerror or error}"
        return Finding("writing", found, "problem", advice)
    ahead = max(stamp - after, 0.0) - max(before - stamp, 0.0)
    facts = {"ahead_s": ahead}
    if abs(ahead) > SKEW_S:
        found = (
            f"a new file is stamped {abs(ahead):.1f} s in the {'future' if ahead > 0 else 'past'}"
        )
        advice = (
            "The clocks of this machine and of the file server differ: set both by NTP; until "
            "then the order of files of several machines misleads."
        )
        return Finding("writing", found, "warning", advice, facts=facts)
    return Finding("writing", "a file was written and synced; its time stamp is right", facts=facts)


def shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """What data workers pass batches through."""
    if not folder.is_dir():
        return Finding("shared memory", f"this system has no {folder}")
    disk = os.statvfs(folder)
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    facts = {"free": free, "total": total}
    found = f"{size_text(free)} of {size_text(total)} free in {folder}"
    if free >= LITTLE_SHARED:
        return Finding("shared memory", found, facts=facts)
    advice = "Start the container with --shm-size=2g or --ipc=host, or set data.workers to 0."
    if total >= LITTLE_SHARED:
        advice = f"Remove what ended programs left in {folder}, or set data.workers to 0."
    state = "problem" if free < NO_SHARED else "warning"
    return Finding("shared memory", found, state, advice, facts=facts)
