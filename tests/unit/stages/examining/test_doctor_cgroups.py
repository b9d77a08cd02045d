"""Limits of containers and batch systems, in made-up /proc and /sys."""

from pathlib import Path

import pytest

from dist_oaa.stages.examining.cgroups import cores_limit, memory_limit


def tree(root: Path, own: str, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_none(tmp_path):
    assert memory_limit(tmp_path) is None
    assert cores_limit(tmp_path) is None


def test_version_2_the_strictest_of_all_parents(tmp_path):
    own = "0::/slurm/job_7/step_0\n"
    files = {
        "slurm__job_7__memory-max": "8589934592\n",
        "slurm__memory-max": "max\n",
        "slurm__job_7__step_0__memory-max": "17179869184\n",
        "slurm__cpu-max": "250000 100000\n",
        "slurm__job_7__cpu-max": "max 100000\n",
        "other__memory-max": "1",
    }
    root = tree(tmp_path, own, **files)
    assert memory_limit(root) == 8 << 30
    assert cores_limit(root) == 2.5


def test_version_2_inside_a_container_its_own_files_are_at_the_top(tmp_path):
    own = "0::/../../docker/abc\n"
    root = tree(tmp_path, own, **{"memory-max": "1073741824", "cpu-max": "50000 100000"})
    assert memory_limit(root) == 1 << 30
    assert cores_limit(root) == 0.5


@pytest.mark.parametrize(("quota", "cores"), [("300000", 3.0), ("-1", None)])
def test_version_1(tmp_path, quota, cores):
    own = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n"
    files = {
        "memory__memory-limit_in_bytes": "9223372036854771712",
        "memory__docker__abc__memory-limit_in_bytes": "536870912",
        "cpu__docker__abc__cpu-cfs_quota_us": quota,
        "cpu__docker__abc__cpu-cfs_period_us": "100000",
    }
    root = tree(tmp_path, own, **files)
    assert memory_limit(root) == 512 << 20
    assert cores_limit(root) == cores


def test_nonsense_is_no_limit(tmp_path):
    root = tree(tmp_path, "0::/\n", **{"memory-max": "lots", "cpu-max": "1 0"})
    assert memory_limit(root) is None
    assert cores_limit(root) is None
