"""Mount tables, full disks, skewed clocks and small shared memory, all made up."""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from dist_oaa.stages.examining import disk, mounts
from dist_oaa.stages.examining.mounts import Mount, mount_of

TABLE = r"""
22 1 0:20 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/a
23 22 8:1 / /data rw shared:2 - ext4 /dev/sda1 rw
24 23 0:30 / /data/net rw - nfs4 server:/export rw,vers=4.2
25 22 0:31 /sub /data/my\040disk rw - cifs //server/share rw
26 22 0:32 / /tmp rw - tmpfs tmpfs rw,size=1g
27 22 8:2 / /twice rw - xfs /dev/sdb rw
28 22 0:33 / /twice rw - fuse.sshfs host:/x rw
this line is damaged
"""


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(TABLE)
    return path


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/", "overlay"),
        ("/database", "overlay"),  # begins like /data and is not in it
        ("/data", "ext4"),
        ("/data/deep/down", "ext4"),
        ("/data/net/run", "nfs4"),
        ("/data/my disk/run", "cifs"),
        ("/twice/run", "fuse.sshfs"),
    ],
)
def test_the_innermost_and_latest_mount(table, place, kind):
    assert mount_of(Path(place), table).kind == kind


def test_no_table(tmp_path):
    assert mount_of(tmp_path, tmp_path / "none") is None
    assert disk.file_system(tmp_path, tmp_path / "none").state == "ok"


@pytest.mark.skipif(not shutil.which("df"), reason="no df to compare with")
@pytest.mark.parametrize("place", ["/", "/dev/shm", "/tmp", str(Path.home())])
def test_the_same_as_df_says(place):
    if not os.path.exists(place) or mount_of(Path(place)) is None:
        pytest.skip(f"{place} is absent")
    command = ["df", "--output=fstype,target", place]
    kind, point = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=20
    ).stdout.splitlines()[1].split(maxsplit=1)  # fmt: skip
    found = mount_of(Path(place))
    assert (found.kind, found.point) == (kind, point)


@pytest.mark.parametrize(
    ("kind", "is_network"),
    [("nfs", 1), ("smb3", 1), ("lustre", 1), ("9p", 1), ("fuse.s3fs", 1), ("fuse", 1),
     ("fuseblk", 0), ("ext4", 0), ("xfs", 0), ("btrfs", 0), ("zfs", 0), ("overlay", 0)],
)  # fmt: skip
def test_what_counts_as_a_network(kind, is_network):
    assert Mount("/", kind, "x").is_network == bool(is_network)


@pytest.mark.parametrize(
    ("place", "state", "word"),
    [
        ("/data", "ok", ""),
        ("/data/net", "warning", "store.local_dir"),
        ("/data/my disk", "warning", "store.local_dir"),
        ("/elsewhere", "warning", "volume"),
        ("/tmp", "warning", "restart"),
    ],
)
def test_file_systems(table, monkeypatch, place, state, word):
    monkeypatch.setattr(disk, "nearest_folder", lambda path: path)
    monkeypatch.setattr(mounts.Path, "resolve", lambda self: self)
    found = disk.file_system(Path(place), table)
    assert found.state == state
    assert word in found.advice


def test_a_local_folder_is_named(table, monkeypatch):
    monkeypatch.setattr(disk, "nearest_folder", lambda path: path)
    for temporary, named in (("/tmp", True), ("/data/net", False)):
        monkeypatch.setattr(disk.tempfile, "gettempdir", lambda: temporary)  # noqa: B023
        advice = disk.file_system(Path("/data/net"), table).advice
        assert (f"such as {temporary}/oaa" in advice) is named


def full(free: int, files: int = 10**6, total: int = 100 << 30):
    return lambda _: SimpleNamespace(
        f_bavail=free // 4096, f_blocks=total // 4096, f_frsize=4096, f_favail=files, f_files=10**7
    )


@pytest.mark.parametrize(
    ("free", "files", "state"),
    [(50 << 30, 10**6, "ok"), (2 << 30, 10**6, "warning"), (100 << 20, 10**6, "problem"),
     (50 << 30, 500, "warning")],
)  # fmt: skip
def test_free_space(tmp_path, monkeypatch, free, files, state):
    monkeypatch.setattr(disk.os, "statvfs", full(free, files))
    found = disk.space(tmp_path)
    assert (found.state, bool(found.advice)) == (state, state != "ok")


def test_a_file_system_without_inodes(tmp_path, monkeypatch):
    numbers = vars(full(50 << 30, 0)(""))
    monkeypatch.setattr(disk.os, "statvfs", lambda _: SimpleNamespace(**numbers | {"f_files": 0}))
    assert disk.space(tmp_path).state == "ok"


def test_the_nearest_folder(tmp_path):
    assert disk.nearest_folder(tmp_path) == tmp_path
    assert disk.nearest_folder(tmp_path / "a" / "b") == tmp_path
    assert disk.nearest_folder(Path("/")) == Path("/")


def test_writing_leaves_nothing(tmp_path):
    found = disk.stamps(tmp_path / "not" / "yet")
    assert found.state == "ok"
    assert abs(found.facts["ahead_s"]) < 1
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    found = disk.stamps(tmp_path / "file" / "run")
    assert found.state == "problem"
    assert "Not a directory" in found.found

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(disk.tempfile, "NamedTemporaryFile", refuse)
    assert "Permission denied" in disk.stamps(tmp_path).found


@pytest.mark.parametrize(("shift_s", "word"), [(3600, "past"), (-90, "future")])
def test_the_clock_of_the_file_server(tmp_path, monkeypatch, shift_s, word):
    clock = disk.time.time
    monkeypatch.setattr(disk.time, "time", lambda: clock() + shift_s)
    found = disk.stamps(tmp_path)
    assert found.state == "warning"
    assert f"{abs(shift_s)}" in found.found
    assert word in found.found
    assert "NTP" in found.advice


@pytest.mark.parametrize(
    ("free", "total", "state", "word"),
    [
        (8 << 30, 8 << 30, "ok", ""),
        (64 << 20, 64 << 20, "warning", "--shm-size"),
        (1 << 20, 64 << 20, "problem", "--shm-size"),
        (1 << 20, 8 << 30, "problem", "Remove"),
    ],
)
def test_shared_memory(tmp_path, monkeypatch, free, total, state, word):
    monkeypatch.setattr(disk.os, "statvfs", full(free, total=total))
    found = disk.shared_memory(tmp_path)
    assert found.state == state
    assert word in found.advice


def test_a_system_without_shared_memory(tmp_path):
    assert disk.shared_memory(tmp_path / "shm").state == "ok"
