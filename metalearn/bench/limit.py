"""Benchmark 7: a meta-step's operations and bytes over this machine's measured peak rates, and where the rest of its time goes."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from metalearn.bench.harness import Bench, Record, Table, interleave, milliseconds, spread, wait
from metalearn.bench.ours import Ours, images
from metalearn.bench.steps import CASES
from metalearn.engine.gradient import meta_gradient

_MATRIX = 2048  # side
_TRIAD_BYTES = 2**28  # of each of three arrays: far more than any cache
_REPEATS = 7  # of a peak rate: the fastest counts, as noise only ever takes away
_CALLS = 9  # of a dense operator by itself; the first warms up
_SHOWN = 8  # operators
_SUBJECTS = (
    "MAML, fully connected, 15 queries, second order",
    "MAML, strided conv, 15 queries, second order",
    "MAML, max-pool conv, 15 queries, second order",
    "ProtoNet, max-pool conv, 60-way, 5 queries",
)


def labels(bench: Bench) -> list[str]:
    """Of the rows that a call can measure."""
    return list(_SUBJECTS[:1] if bench.quick else _SUBJECTS)


def measure(bench: Bench) -> Record:
    peaks = peak_rates(bench.device)
    data = images(bench)
    cases = {case.label: case for case in CASES}
    rows = []
    for label in bench.chosen(labels(bench)):
        bench.say(label)
        ours = Ours(bench.config(*data, *cases[label].overrides))
        seconds = spread(interleave({"ours": ours.step}, bench.rounds, bench.device)["ours"])["median"]
        alone = dense_alone(ours)
        rows.append(
            {"label": label, "seconds": seconds, **counted(ours), "dense_seconds": alone, "operators": profiled(ours)}
        )
    return {"peaks": peaks, "rows": rows}


def peak_rates(device: torch.device) -> Record:
    """Floating-point operations per second of a large matrix product and bytes per second of a = b + s * c, in fp32."""
    a, b = (torch.rand(_MATRIX, _MATRIX, device=device) for _ in range(2))
    product = torch.empty_like(a)
    x, y = (torch.rand(_TRIAD_BYTES // 4, device=device) for _ in range(2))
    total = torch.empty_like(x)
    seconds = {
        "flops": _fastest(lambda: torch.mm(a, b, out=product), device),
        "bytes": _fastest(lambda: torch.add(x, y, alpha=3.0, out=total), device),
    }
    return {"flops": 2 * _MATRIX**3 / seconds["flops"], "bytes": 3 * _TRIAD_BYTES / seconds["bytes"]}


def _fastest(action: Callable[[], object], device: torch.device) -> float:
    taken = []
    for _ in range(_REPEATS):
        wait(device)
        started = time.perf_counter()
        action()
        wait(device)
        taken.append(time.perf_counter() - started)
    return min(taken)


def counted(ours: Ours) -> Record:
    """What the meta-gradient of one batch needs, done one task at a time: dense operators, whose counts are exact."""
    batch = ours.tasks(0)
    flops, moved = FlopCounterMode(display=False), _Bytes()
    for counter in (flops, moved):
        with counter:
            meta_gradient(ours.algorithm, batch, 1, "fp32")
        ours.optimizer.zero_grad(set_to_none=True)
    return {"flops": flops.get_total_flops(), "bytes": moved.total}


def dense_alone(ours: Ours) -> float:
    """Seconds that the convolutions, their gradients and the matrix products of one batch take, done one task at a time, where each is called by
    itself over and over, with what it reads in the cache: what the library reaches at these shapes, and what a step of nothing else would take."""
    calls = DenseCalls()
    with calls:
        meta_gradient(ours.algorithm, ours.tasks(0), 1, "fp32")
    ours.optimizer.zero_grad(set_to_none=True)
    return sum(count * _repeated(call, ours.device) for call, count in calls.counts.items())


class Call(NamedTuple):
    """A dense operator with the shapes, strides and types of the tensors that it is given."""

    operator: Any
    arguments: tuple[Any, ...]

    def operands(self, device: torch.device) -> tuple[Any, ...]:
        """Random numbers of those shapes, in that order in memory."""
        return tuple(
            torch.empty_strided(each.shape, each.stride, dtype=each.dtype, device=device).uniform_()
            if isinstance(each, _Form)
            else list(each)
            if isinstance(each, tuple)
            else each
            for each in self.arguments
        )


class _Form(NamedTuple):
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class DenseCalls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the calls of dense operators, equal ones together."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[Call] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DENSE:
            self.counts[Call(func, tuple(map(_form, args)))] += 1
        return func(*args, **(kwargs or {}))


_ATEN = torch.ops.aten
_DENSE = {
    *(_ATEN.convolution.default, _ATEN.convolution_backward.default),
    *(_ATEN.mm.default, _ATEN.bmm.default, _ATEN.addmm.default, _ATEN.baddbmm.default),
}


def _form(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return _Form(tuple(argument.shape), argument.stride(), argument.dtype)
    return tuple(argument) if isinstance(argument, list) else argument


def _repeated(call: Call, device: torch.device) -> float:
    """Seconds of one call: the median of enough to fill a moment."""
    operands = call.operands(device)
    taken: list[float] = []
    while len(taken) < _CALLS:
        wait(device)
        started = time.perf_counter()
        call.operator(*operands)
        wait(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


class _Bytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what operators read and write, each tensor once per operator, as if nothing stayed in a cache."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func is not torch.ops.aten._unsafe_view.default:
            touched = {id(leaf): leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)}
            self.total += sum(leaf.numel() * leaf.element_size() for leaf in touched.values())
        return out


def profiled(ours: Ours) -> list[Record]:
    """The operators that a step spends most of its time in, without those they call: their names and shares."""
    ours.step()
    cuda = ours.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as found:
        ours.step()
        wait(ours.device)
    events = [
        (event.key, event.self_device_time_total if cuda else event.self_cpu_time_total, event.count)
        for event in found.key_averages()
    ]
    total = sum(event[1] for event in events)
    largest = sorted(events, key=lambda event: -event[1])[:_SHOWN]
    return [{"name": name, "share": microseconds / total, "calls": calls} for name, microseconds, calls in largest]


def tables(record: Record) -> list[Table]:
    peaks = record["peaks"]
    rows, operators = [], []
    for row in record["rows"]:
        compute, memory = row["flops"] / peaks["flops"], row["bytes"] / peaks["bytes"]
        rows.append(
            (
                row["label"],
                f"{row['flops'] / 1e9:,.1f}",
                milliseconds(compute),
                f"{row['bytes'] / 1e9:,.1f}",
                milliseconds(memory),
                milliseconds(row["seconds"]),
                f"{100 * compute / row['seconds']:.0f} %",
                *_against_dense(row),
            )
        )
        names = (
            f"{o['name'].removeprefix('aten::')} {100 * o['share']:.0f} % ({o['calls']:,})" for o in row["operators"]
        )
        operators.append((row["label"], ", ".join(names)))
    title = (
        f"Distance to the limit; measured peaks: {peaks['flops'] / 1e9:,.0f} GFLOP/s (fp32 matrix product), "
        f"{peaks['bytes'] / 1e9:,.1f} GB/s (triad)"
    )
    columns = (
        *("", "GFLOP", "at peak, ms", "GB", "at peak, ms", "measured, ms", "FLOP/s of peak"),
        *("convolutions and products alone, ms", "of measured"),
    )
    note = (
        "Counted one task at a time. GB: every operator's inputs and outputs once; more than memory sees where a task's "
        "activations stay in the cache. Convolutions and products alone: each call by itself, over and over."
    )
    return [
        Table(title, columns, rows, note),
        Table("Where a step's time goes: operators' own shares (calls)", ("", "operators"), operators),
    ]


def _against_dense(row: Record) -> tuple[str, str]:
    if "dense_seconds" not in row:  # measured before this was
        return "", ""
    return milliseconds(row["dense_seconds"]), f"{100 * row['dense_seconds'] / row['seconds']:.0f} %"
