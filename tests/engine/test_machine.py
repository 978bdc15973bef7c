"""What a process may use is read from its limits, not from the size of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metalearn.engine.machine import available_memory, usable_cores

GIB = 2**30


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 cores with 16 GiB available, without control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    write(tmp_path / "proc/meminfo", f"MemTotal: 1 kB\nMemFree: 1 kB\nMemAvailable: {16 * 2**20} kB\n")
    return tmp_path


def write(file: Path, text: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def test_without_limits_the_machine_counts(system: Path) -> None:
    assert usable_cores(system) == 8
    assert available_memory(system) == 16 * GIB


def test_a_limit_of_version_2_counts_and_file_caches_can_be_given_up(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/box/inner")
    group = system / "sys/fs/cgroup/box"
    write(group / "inner/memory.max", "max")
    write(group / "inner/memory.current", 1 * GIB)
    write(group / "memory.max", 4 * GIB)
    write(group / "memory.current", 3 * GIB)
    write(group / "memory.stat", f"active_file 5\ninactive_file {GIB // 2}")
    write(group / "cpu.max", "150000 100000")
    assert available_memory(system) == GIB + GIB // 2
    assert usable_cores(system) == 2, "1.5 cores keep two threads busy"


@pytest.mark.parametrize(("data", "space", "left"), [(3, "unlimited", 1), ("unlimited", 9, 3), (3, 8, 1), (1, 99, 0)])
def test_limits_of_the_process_count(system: Path, data: int | str, space: int | str, left: int) -> None:
    def limit(gib: int | str) -> str:
        return gib if isinstance(gib, str) else str(gib * GIB)

    lines = [f"Max data size             {limit(data)}            unlimited            bytes"]
    lines += [f"Max address space         {limit(space)}            unlimited            bytes"]
    write(system / "proc/self/limits", "\n".join(lines))
    write(system / "proc/self/status", f"Name:\tpython\nVmSize:\t {6 * 2**20} kB\nVmData:\t {2 * 2**20} kB")
    assert available_memory(system) == left * GIB


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="needs Linux")
def test_a_limit_of_this_process_is_read() -> None:
    code = """
import resource
from metalearn.engine.machine import available_memory
resource.setrlimit(resource.RLIMIT_DATA, (2**28, 2**28))
print(available_memory())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 2**28


def test_a_limit_of_version_1_counts(system: Path) -> None:
    write(system / "proc/self/cgroup", "5:memory:/box\n4:cpu,cpuacct:/box\n3:pids:/box")
    memory, cpu = system / "sys/fs/cgroup/memory/box", system / "sys/fs/cgroup/cpu/box"
    write(memory / "memory.limit_in_bytes", 2 * GIB)
    write(memory / "memory.usage_in_bytes", GIB)
    write(cpu / "cpu.cfs_quota_us", 300000)
    write(cpu / "cpu.cfs_period_us", 100000)
    assert available_memory(system) == GIB
    assert usable_cores(system) == 3


def test_no_limit_is_none(system: Path) -> None:
    write(system / "proc/self/cgroup", "5:memory:/\n4:cpu:/\n0::/")
    write(system / "sys/fs/cgroup/memory/memory.limit_in_bytes", 2**63 - 4096)
    write(system / "sys/fs/cgroup/memory/memory.usage_in_bytes", GIB)
    write(system / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", -1)
    write(system / "sys/fs/cgroup/cpu/cpu.cfs_period_us", 100000)
    write(system / "sys/fs/cgroup/cpu.max", "max 100000")
    assert available_memory(system) == 16 * GIB
    assert usable_cores(system) == 8


def test_inside_a_container_the_mount_is_the_group(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/outside/this/container")
    write(system / "sys/fs/cgroup/memory.max", GIB)
    write(system / "sys/fs/cgroup/memory.current", 0)
    assert available_memory(system) == GIB


@pytest.mark.parametrize("text", ["", "nonsense", "1:2", "0::/../.."])
def test_files_that_say_nothing_change_nothing(system: Path, text: str) -> None:
    write(system / "proc/self/cgroup", text)
    write(system / "sys/fs/cgroup/memory.max", "much")
    write(system / "sys/fs/cgroup/cpu.max", "a b c")
    assert available_memory(system) == 16 * GIB
    assert usable_cores(system) == 8


def test_this_machine_has_some() -> None:
    assert usable_cores() >= 1
    free = available_memory()
    assert free is None or free > 2**20
