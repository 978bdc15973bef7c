"""Benchmark 6: how time and peak memory of a meta-step grow with its sizes."""

from __future__ import annotations

from typing import NamedTuple

from metalearn.bench import memory
from metalearn.bench.harness import Bench, Config, Record, Table, exponent, interleave, milliseconds, spread
from metalearn.bench.ours import Ours, images

_ROUNDS = 5  # at most: an exponent says less than a ratio


class Axis(NamedTuple):
    name: str
    key: str
    sizes: tuple[int, ...]


class Subject(NamedTuple):
    label: str
    overrides: tuple[str, ...]
    axes: tuple[Axis, ...]


_META_BATCH = Axis("meta-batch size", "train.meta_batch_size", (4, 8, 16, 32))
_SHAPE = ("task.train.shots=1", "task.train.queries=5")

SUBJECTS = (
    Subject(
        "MAML, strided conv, second order; 8 tasks, 5-way, 5 queries, 1 inner step where not said otherwise",
        ("algorithm=maml", "backbone=conv4_stride", "task.train.ways=5", "train.meta_batch_size=8", *_SHAPE),
        (
            _META_BATCH,
            Axis("ways", "task.train.ways", (5, 10, 20)),
            Axis("queries per class", "task.train.queries", (2, 5, 10, 15)),
            Axis("inner steps", "algorithm.inner_steps", (1, 2, 4, 8)),
        ),
    ),
    Subject(
        "ProtoNet, max-pool conv; 1 task, 20-way, 5 queries where not said otherwise",
        ("algorithm=protonet", "task.train.ways=20", "train.meta_batch_size=1", *_SHAPE),
        (
            Axis("meta-batch size", "train.meta_batch_size", (1, 2, 4)),
            Axis("ways", "task.train.ways", (5, 10, 20, 40)),
            Axis("queries per class", "task.train.queries", (2, 5, 10, 15)),
        ),
    ),
)


def labels(bench: Bench) -> list[str]:
    """Of the rows that a call can measure: each a subject's, and the axis."""
    return list(_pairs(bench))


def _pairs(bench: Bench) -> dict[str, tuple[Subject, Axis]]:
    return {
        f"{subject.label}: {axis.name}": (subject, axis)
        for subject in (SUBJECTS[:1] if bench.quick else SUBJECTS)
        for axis in (subject.axes[:1] if bench.quick else subject.axes)
    }


def measure(bench: Bench) -> Record:
    data = images(bench)
    rows = []
    pairs = _pairs(bench)
    for subject, axis in (pairs[label] for label in bench.chosen(list(pairs))):
        bench.say(f"{subject.label.partition(';')[0]}: {axis.name}")
        rows.append(_measure(bench, data, subject, axis))
    return {"rows": rows}


def _measure(bench: Bench, data: tuple[str, ...], subject: Subject, axis: Axis) -> Record:
    others = [override for override in subject.overrides if not override.startswith(f"{axis.key}=")]

    def config(size: int, *further: str) -> Config:
        return bench.config(*data, *others, f"{axis.key}={size}", *further)

    made = {size: Ours(config(size)) for size in axis.sizes}
    seconds = interleave(
        {str(size): ours.step for size, ours in made.items()}, min(bench.rounds, _ROUNDS), bench.device
    )
    medians = [spread(values)["median"] for values in seconds.values()]
    # As chosen above: choosing makes steps of its own, and what these hold before the first step would not count.
    peaks = [memory.peak(config(size, f"train.task_chunk={ours.task_chunk}"), None) for size, ours in made.items()]
    mib = [found["mib"] for found in peaks if found is not None]
    row: Record = {
        "label": subject.label,
        "axis": axis.name,
        "sizes": list(axis.sizes),
        "seconds": medians,
        "task_chunk": [ours.task_chunk for ours in made.values()],
        "seconds_exponent": exponent(axis.sizes, medians),
    }
    if len(mib) == len(peaks):
        row |= {"mib": mib, "mib_exponent": exponent(axis.sizes, mib)}
    return row


def tables(record: Record) -> list[Table]:
    found = []
    for label in dict.fromkeys(row["label"] for row in record["rows"]):
        rows = []
        for row in record["rows"]:
            if row["label"] != label:
                continue
            memory_cells = (
                (" ".join(f"{value:.0f}" for value in row["mib"]), f"{row['mib_exponent']:.2f}")
                if "mib" in row
                else ("", "")
            )
            rows.append(
                (
                    row["axis"],
                    " ".join(map(str, row["sizes"])),
                    " ".join(map(milliseconds, row["seconds"])),
                    f"{row['seconds_exponent']:.2f}",
                    *memory_cells,
                    " ".join(map(str, row["task_chunk"])),
                )
            )
        columns = ("", "sizes", "ms", "exponent", "peak MiB", "exponent", "task_chunk")
        note = (
            "Exponent: of the power law that fits best; 1 is proportional, less means that part of the cost is fixed."
        )
        found.append(Table(f"Growth of one meta-step: {label}", columns, rows, note))
    return found
