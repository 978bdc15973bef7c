"""What this process may use of the machine: cores and memory, as affinity, container limits and the system allow."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_UNLIMITED = 2**60  # bytes; version 1 of cgroups writes a number as large as this where there is no limit


def usable_cores(root: Path = Path("/")) -> int:
    """How many cores this process may use: those of its affinity, or fewer where its control group has a quota.

    Args:
        root: of the file system that is read.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups(root, "cpu"):
        quota, period = _words(group / "cpu.max", 2) or [
            *(_words(group / "cpu.cfs_quota_us", 1) or ["max"]),
            *(_words(group / "cpu.cfs_period_us", 1) or ["1"]),
        ]
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    return cores


def bf16_instructions(root: Path = Path("/")) -> str | None:
    """The processor's instructions for products of bf16 numbers, by Linux' name of them; None where it has none or the system does not tell.

    Args:
        root: of the file system that is read.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return next((name for name in ("amx_bf16", "avx512_bf16") if name in flags), None)


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes of main memory that can be taken without swapping; None where the system does not tell.

    Linux counts what it would give up of its file caches as available. A container's limit counts where it leaves less, and so do limits of the
    process (`ulimit -d`, `ulimit -v`).
    """
    limits = (_of_system(root), *map(_of_group, _groups(root, "memory")), *_of_process(root))
    found = [free for free in limits if free is not None]
    return min(found, default=None)


def _of_system(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not POSIX, or not known there
        return None


def _of_process(root: Path) -> Iterator[int]:
    """Bytes that the limits of the data segment and of the address space leave."""
    try:
        limits = (root / "proc/self/limits").read_text(encoding="ascii").splitlines()
        used = (root / "proc/self/status").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for limit, usage in (("Max data size", "VmData:"), ("Max address space", "VmSize:")):
        allowed = next((line.removeprefix(limit).split()[0] for line in limits if line.startswith(limit)), "")
        taken = next((line.split()[1] for line in used if line.startswith(usage)), "")
        if allowed.isdigit() and taken.isdigit():
            yield max(0, int(allowed) - 1024 * int(taken))


def _of_group(group: Path) -> int | None:
    """Bytes that a control group may still take; what it holds of file caches is given up when needed."""
    for limit_file, used_file, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _words(group / limit_file, 1), _words(group / used_file, 1)
        if limit and used and limit[0].isdigit() and used[0].isdigit() and int(limit[0]) < _UNLIMITED:
            return max(0, int(limit[0]) - int(used[0]) + _statistic(group, cached))
    return None


def _statistic(group: Path, name: str) -> int:
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name} "))
    except (OSError, ValueError, StopIteration, IndexError):
        return 0


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups that this process is in, of both versions, each with its parents: a parent's limit binds too."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / (controllers and controller)
        inner = PurePosixPath(path.lstrip("/"))
        # Inside a container the mount may be the group itself, whatever the path says.
        yield from (mounted / each for each in (inner, *inner.parents) if (mounted / each).is_dir())


def _words(file: Path, count: int) -> list[str] | None:
    """The words of a one-line file, where it has so many."""
    try:
        words = file.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return None
    return words if len(words) == count else None
