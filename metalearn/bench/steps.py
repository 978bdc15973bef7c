"""Benchmark 2: meta-training steps from drawing the tasks to the optimizer, beside learn2learn's example loops; and peak memory."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

from metalearn.bench import memory, peer
from metalearn.bench.harness import Bench, Record, Table, compared, interleave, milliseconds, times
from metalearn.bench.ours import Ours, images
from metalearn.bench.tasks import image_files
from metalearn.engine.build import build_algorithm, build_dataset


class Case(NamedTuple):
    label: str
    loop: str  # the class of `peer` that does the same
    overrides: tuple[str, ...]
    quick: bool = False


# What learn2learn's Omniglot example sets.
_EXAMPLE = (
    *("task=5way_1shot", "train.meta_batch_size=32", "train.optimizer=adam", "train.lr=3.0e-3"),
    "train.schedule=constant",
)
_MAML = ("algorithm=maml", "algorithm.inner_lr=0.5", "algorithm.inner_steps=1", *_EXAMPLE)
_NETWORKS = {"mlp": "fully connected", "conv4_stride": "strided conv", "conv4": "max-pool conv"}


def maml_case(backbone: str, queries: int, second_order: bool) -> Case:
    order = "second" if second_order else "first"
    return Case(
        f"MAML, {_NETWORKS[backbone]}, {queries} {'query' if queries == 1 else 'queries'}, {order} order",
        "MAMLLoop",
        (
            *_MAML,
            f"backbone={backbone}",
            f"task.train.queries={queries}",
            f"algorithm.first_order={str(not second_order).lower()}",
        ),
        quick=queries == 15 and second_order and backbone != "conv4",
    )


CASES = (
    *(maml_case("mlp", queries, order) for queries in (1, 15) for order in (True, False)),
    *(maml_case("conv4_stride", queries, order) for queries in (1, 15) for order in (True, False)),
    maml_case("conv4", 15, True),
    Case(
        "ANIL, strided conv, 15 queries",
        "ANILLoop",
        # As in learn2learn's example, support and queries of a task pass the network together.
        ("algorithm=anil", *_EXAMPLE, "backbone=conv4_stride", "backbone.running_stats=true"),
    ),
    Case("Reptile, max-pool conv, 5 tasks, 5 inner steps of 10", "ReptileLoop", ("algorithm=reptile",)),
    Case(
        "ProtoNet, max-pool conv, 60-way, 5 queries",
        "PrototypeLoop",
        ("algorithm=protonet", "task.train.ways=60", "train.meta_batch_size=1"),
        quick=True,
    ),
)


def labels(bench: Bench) -> list[str]:
    """Of the rows that a call can measure."""
    return [case.label for case in CASES if case.quick or not bench.quick]


def measure(bench: Bench) -> Record:
    cases = {case.label: case for case in CASES}
    chosen = [cases[label] for label in bench.chosen(labels(bench))]
    data = images(bench)
    files = image_files(bench.config(*data))
    rows = []
    for case in chosen:
        bench.say(case.label)
        rows.append(_measure(bench, case, data, files))
    for case, row in zip(chosen, rows, strict=True):
        if not bench.quick:
            bench.say(f"memory: {case.label}")
            # Choosing it would make steps of its own first, and what they hold would not count.
            config = bench.config(*data, *case.overrides, f"train.task_chunk={row['task_chunk']}")
            row["memory"] = {"ours": memory.peak(config, None), "theirs": memory.peak(config, case.loop)}
    return {"images": "memory" if files is None else "files", "rows": rows}


def _measure(bench: Bench, case: Case, data: tuple[str, ...], files: peer.ImageFiles | None) -> Record:
    config = bench.config(*data, *case.overrides)
    dataset, task = build_dataset(config), config["task"]["train"]
    ways, each = task["ways"], task["shots"] + task["queries"]
    ours = Ours(config)
    sample = peer.from_memory(dataset, ways, each) if files is None else files.sample(ways, each)
    theirs: peer.Loop = getattr(peer, case.loop)(
        config, build_algorithm(config, dataset).to(bench.device), sample, bench.device
    )
    making: dict[str, list[float]] = {"ours": [], "theirs": []}
    seconds = interleave(
        {"ours": counted(ours, making["ours"]), "theirs": counted(theirs, making["theirs"])},
        bench.rounds,
        bench.device,
    )
    return {
        "label": case.label,
        "overrides": [*data, *case.overrides],
        **compared(seconds["ours"], seconds["theirs"]),
        # Data alone, over all calls, the warm-up's too.
        "data": {side: statistics.median(values) for side, values in making.items()},
        "task_chunk": ours.task_chunk,
        "choice_seconds": ours.choice_seconds,
        "parameters": sum(parameter.numel() for parameter in theirs.parameters),
    }


def counted(side: Any, data: list[float]) -> Any:
    """The side's step, which also puts down how long its tasks took to make."""

    def step() -> None:
        before = side.data_seconds
        side.step()
        data.append(side.data_seconds - before)

    return step


def tables(record: Record) -> list[Table]:
    of_files = record["images"] == "files"
    steps = [
        (
            row["label"],
            milliseconds(row["ours"]["median"]),
            milliseconds(row["theirs"]["median"]),
            times(row["ratio"]),
            milliseconds(row["data"]["theirs"]),
            f"{without_data(row):.1f}",
            f"{row['task_chunk']}",
            f"{row['choice_seconds']:.1f}",
        )
        for row in record["rows"]
    ]
    columns = (
        *("", "ours, ms", "theirs, ms", "ratio (quartiles)", "of theirs making tasks, ms", "ratio without data"),
        *("task_chunk", "choosing it, s"),
    )
    note = (
        "learn2learn decodes image files, as its example does; the ratio without data is that of the medians, "
        "less what making tasks took."
        if of_files
        else "learn2learn's images lie in memory as float tensors."
    )
    found = [Table("One meta-training step, data included", columns, steps, note)]
    if memories := [_memory_row(row) for row in record["rows"] if row.get("memory", {}).get("ours")]:
        of_memory = (
            *("", "ours, MiB", "theirs, MiB", "ours / theirs", "ours: rise after step 3", "theirs: rise", "steps"),
            *("ours alone, ms", "theirs alone, ms"),
        )
        found.append(
            Table(
                "Peak memory above what the process held before its first step",
                of_memory,
                memories,
                "Each side in a process of its own, with the allocator that it would have there, learn2learn with its images in memory; "
                "alone: the fastest of those steps.",
            )
        )
    return found


def without_data(row: Record) -> float:
    ours, theirs = (row[side]["median"] - row["data"][side] for side in ("ours", "theirs"))
    return float(theirs / ours)


def _memory_row(row: Record) -> tuple[str, ...]:
    ours, theirs = row["memory"]["ours"], row["memory"]["theirs"]
    rises = [f"{100 * (side['mib'] / side['mib_early'] - 1):.0f} %" for side in (ours, theirs)]
    return (
        row["label"],
        f"{ours['mib']:.0f}",
        f"{theirs['mib']:.0f}",
        f"{ours['mib'] / theirs['mib']:.2f}",
        *rises,
        f"{ours['steps']}, {theirs['steps']}",
        *(milliseconds(side["seconds"]) for side in (ours, theirs)),
    )
