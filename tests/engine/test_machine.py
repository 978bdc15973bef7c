"""What a process may use is read from its limits, not from the size of the machine."""

from __future__ import annotations

import os
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
