"""Peak memory of meta-training steps, each side in a process of its own, above what that process held before its first step."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from metalearn.bench import peer
from metalearn.bench.harness import Config, Record, wait
from metalearn.bench.ours import Ours
from metalearn.engine.build import build_algorithm, build_dataset
from metalearn.engine.device import choose_device
from metalearn.engine.host_memory import keep_freed_memory
from metalearn.errors import UserError
from metalearn.runs.environment import peak_memory_mib

_MIB = 2**20
_EARLY = 3  # steps after which the peak is looked at first: it should not rise later
_MOST, _SECONDS = 15, 2.0  # steps, and after how long no further one is begun


def peak(config: Config, loop: str | None) -> Record | None:
    """MiB of a configuration's steps: those of `metalearn train`, or of the class `loop` of `peer`; None where this cannot be measured.

    Ours runs as `metalearn train` does, with freed memory kept in the process; theirs with the allocator as it is.
    """
    if not Path("/proc/self/clear_refs").exists() and config["device"] == "cpu":
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["metalearn.bench.preloaded"])
    receiving, sending = context.Pipe(duplex=False)
    environment = {"METALEARN_CACHE": os.environ["METALEARN_CACHE"]}
    child = context.Process(target=_measure, args=(sending, config, loop, torch.get_num_threads(), environment))
    child.start()
    sending.close()
    try:
        measured: Record = receiving.recv()
    except EOFError:  # the child has said why on stderr
        raise UserError("a process that measures memory died") from None
    finally:
        child.join()
    return measured


def _measure(sending: Connection, config: Config, loop: str | None, threads: int, environment: dict[str, str]) -> None:
    os.environ |= environment
    torch.set_num_threads(threads)
    device = choose_device(config)
    step = _ours(config) if loop is None else _theirs(config, loop, device)
    base = _forget_peak(device)
    seconds: list[float] = []
    peaks: list[float] = []
    began = time.perf_counter()
    while len(peaks) <= _EARLY or (len(peaks) < _MOST and time.perf_counter() - began < _SECONDS):
        started = time.perf_counter()
        step()
        wait(device)
        seconds.append(time.perf_counter() - started)
        peaks.append(peak_memory_mib(device) - base)
    sending.send({"mib": peaks[-1], "mib_early": peaks[_EARLY - 1], "steps": len(peaks), "seconds": min(seconds)})


def _ours(config: Config) -> Callable[[], object]:
    keep_freed_memory()
    return Ours(config).step


def _theirs(config: Config, loop: str, device: torch.device) -> Callable[[], object]:
    dataset, task = build_dataset(config), config["task"]["train"]
    sample = peer.from_memory(dataset, task["ways"], task["shots"] + task["queries"])
    made: peer.Loop = getattr(peer, loop)(config, build_algorithm(config, dataset).to(device), sample, device)
    return made.step


def _forget_peak(device: torch.device) -> float:
    """Lets the peak start anew at what is held now, MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the resident set's high-water mark
    return peak_memory_mib(device)
