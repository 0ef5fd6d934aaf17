"""A process has the cores and the memory that the tightest of its control groups leaves it, in both versions."""

import os

import pytest
from batchscale.measure.device.machine import available_memory_bytes, host_memory_bytes, usable_cores

UNLIMITED = {1: "9223372036854771712", 2: "max"}
FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
MOUNTS = {
    1: "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
    "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
    2: "31 23 0:28 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
}
GROUPS = {1: "4:memory:{path}\n3:cpu,cpuacct:{path}\n1:name=systemd:/x\n0::/x\n", 2: "0::{path}\n"}


def host(root, version, path="/slurm/job", mount_root="/"):
    """Pretend to be in a group of a host; return functions that write a file for memory and for cores in a group."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(GROUPS[version].format(path=path))
    (root / "proc/self/mountinfo").write_text(MOUNTS[version].format(root=mount_root))
    (root / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    top = root / "sys/fs/cgroup"

    def memory(group, limit, used=0, statistics=""):
        folder = (top / "memory" if version == 1 else top) / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in zip(FILES[version], (limit, used), strict=True):
            (folder / name).write_text(f"{value}\n")
        (folder / "memory.stat").write_text(statistics)

    def cores(group, quota, period=100_000):
        folder = (top / "cpu,cpuacct" if version == 1 else top) / group
        folder.mkdir(parents=True, exist_ok=True)
        if version == 2:
            (folder / "cpu.max").write_text(f"{'max' if quota < 0 else quota} {period}\n")
        else:
            (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (folder / "cpu.cfs_period_us").write_text(f"{period}\n")

    return memory, cores


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_group_up_the_tree_counts(tmp_path, monkeypatch, version):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    memory, cores = host(tmp_path, version)
    assert usable_cores(tmp_path) == 16
    assert available_memory_bytes(tmp_path) == 4000 << 10
    installed = host_memory_bytes(tmp_path)
    cores("slurm/job", -1)
    memory("slurm/job", UNLIMITED[version], 10**6)
    assert (usable_cores(tmp_path), host_memory_bytes(tmp_path)) == (16, installed)
    cores("slurm", 350_000)  # 3.5 cores
    memory("slurm", 3_000_000, 1_000_000)
    assert (usable_cores(tmp_path), host_memory_bytes(tmp_path)) == (4, 3_000_000)
    assert available_memory_bytes(tmp_path) == 2_000_000
    cores("slurm/job", 50_000)
    memory("slurm/job", 2_500_000, 2_400_000)
    assert (usable_cores(tmp_path), host_memory_bytes(tmp_path)) == (1, 2_500_000)
    assert available_memory_bytes(tmp_path) == 100_000
    cores("another", 10_000)
    memory("another", 1)
    assert host_memory_bytes(tmp_path) == 2_500_000


@pytest.mark.parametrize("version", [1, 2])
def test_cached_files_of_a_group_count_as_free(tmp_path, version):
    memory, _ = host(tmp_path, version)
    name = "inactive_file" if version == 2 else "total_inactive_file"
    memory("slurm/job", 3_000_000, 1_000_000, f"anon 300000\n{name} 400000\nactive_file 300000\n")
    assert available_memory_bytes(tmp_path) == 2_400_000
    memory("slurm/job", 1_000, 5_000)
    assert available_memory_bytes(tmp_path) == 0


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("path", "mount_root"), [("/docker/9", "/docker/9"), ("/docker/9", "/other"), ("/", "/")])
def test_a_container_sees_its_own_group_as_the_top(tmp_path, version, path, mount_root):
    memory, _ = host(tmp_path, version, path, mount_root)
    memory("", 2_000_000)
    assert host_memory_bytes(tmp_path) == 2_000_000


def test_without_groups_the_whole_machine_counts(tmp_path):
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))
    assert host_memory_bytes(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert available_memory_bytes(tmp_path) > 0
