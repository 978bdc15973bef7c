"""Benchmark 3: one meta-training step of MAML, ours beside each way in which others make it."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from metalearn.bench import functorch, peer, rival
from metalearn.bench.functorch import FunctorchLoop
from metalearn.bench.harness import Bench, Config, Record, Table, compared, interleave, milliseconds, times
from metalearn.bench.ours import Ours, images
from metalearn.bench.rival_worker import Layers, network
from metalearn.bench.steps import counted, maml_case, without_data
from metalearn.bench.tasks import image_files
from metalearn.engine.build import build_algorithm, build_dataset

_FUNCTORCH = "functorch's maml_omniglot"


class Case(NamedTuple):
    label: str
    overrides: tuple[str, ...]
    three_blocks: bool = False  # the network of functorch's example
    quick: bool = False


CASES = (
    *(
        Case(case.label, case.overrides, quick=backbone == "mlp")
        for backbone in ("mlp", "conv4_stride", "conv4")
        for queries in (1, 15)
        for case in [maml_case(backbone, queries, True)]
    ),
    Case(
        f"{_FUNCTORCH}: 8 tasks, 3 unpadded blocks, 5 shots, 15 queries, 5 inner steps",
        (
            *("algorithm=maml", "algorithm.inner_lr=0.1", "algorithm.inner_steps=5", "task=5way_5shot"),
            *("task.train.queries=15", "train.meta_batch_size=8", "train.optimizer=adam", "train.lr=1.0e-3"),
            "train.schedule=constant",
        ),
        three_blocks=True,
    ),
)


def labels(bench: Bench) -> list[str]:
    """Of the cases that a call can measure; each has a row for each rival."""
    return [case.label for case in CASES if case.quick or not bench.quick]


def measure(bench: Bench) -> Record:
    data, cases = images(bench), {case.label: case for case in CASES}
    files = image_files(bench.config(*data))
    rows: list[Record] = []
    with workers(bench) as worker, tempfile.TemporaryDirectory(prefix="metalearn-bench-") as folder:
        written = None if worker is None else rival.write_images(build_dataset(bench.config(*data)), Path(folder))
        for label in bench.chosen(labels(bench)):
            bench.say(label)
            rows += _measure(bench, cases[label], data, files, worker, written)
    return {"images": "memory" if files is None else "files", "rows": rows}


@contextmanager
def workers(bench: Bench) -> Iterator[rival.Worker | None]:
    """parallel-metalearn's process; None, and a line that says how to make it, without its environment. It has no way to another device."""
    interpreter = rival.python()
    if interpreter is None or bench.device.type != "cpu":
        bench.say(rival.HOW_TO_MAKE if interpreter is None else f"{rival.NAME} is left out: it is measured on the CPU")
        yield None
        return
    with rival.Worker(interpreter) as worker:
        yield worker


def ours_of(case: Case, config: Config) -> Ours:
    """The outer loop of a case's configuration."""
    return Ours(config, functorch.take_its_network if case.three_blocks else None)


def layers_of(case: Case, config: Config) -> Layers:
    """The network of a case in torch's own layers, the head last; its parameters come in the order of ours."""
    backbone, ways = config["backbone"], config["task"]["train"]["ways"]
    if "hidden" in backbone:
        widths = [28**2, *backbone["hidden"]]
        blocks = [
            [["linear", before, after], ["norm1d", after], ["relu"]] for before, after in itertools.pairwise(widths)
        ]
        return [["flatten"], *itertools.chain(*blocks), ["linear", widths[-1], ways]]
    count, padding = (functorch.BLOCKS, 0) if case.three_blocks else (4, 1)
    strided, filters = backbone["downsample"] == "stride", backbone["filters"]
    layers: Layers = []
    for channels in (1, *[filters] * (count - 1)):
        layers += [["conv", channels, filters, 2 if strided else 1, padding], ["norm2d", filters], ["relu"]]
        layers += [] if strided else [["max_pool"]]
    layers += [["mean"]] if backbone["pool"] == "mean" else []
    return [*layers, ["flatten"], ["linear", filters, ways]]


def functorch_loop(case: Case, ours: Ours) -> FunctorchLoop:
    """The loop of functorch's example, with our initial parameters and the tasks of our first step."""
    tasks = ours.tasks(0)
    net = network(layers_of(case, ours.config)).to(ours.device, tasks.support.x.dtype)
    with torch.no_grad():
        for their, our in zip(net.parameters(), ours.algorithm.classifier().parameters(), strict=True):  # type: ignore[operator]
            their.copy_(our)
    return FunctorchLoop(ours.config, net, tasks)


def rival_loop(
    worker: rival.Worker, case: Case, ours: Ours, written: dict[str, Any] | None, backend: str
) -> rival.Rival:
    """parallel-metalearn's MAML with our initial parameters, which a worker knows by the name of the backend."""
    start = list(ours.algorithm.classifier().parameters())  # type: ignore[operator]
    return rival.Rival(worker, backend, ours.config, layers_of(case, ours.config), start, written, backend)


def _measure(
    bench: Bench,
    case: Case,
    data: tuple[str, ...],
    files: peer.ImageFiles | None,
    worker: rival.Worker | None,
    written: dict[str, Any] | None,
) -> list[Record]:
    config = bench.config(*data, *case.overrides)
    ours = ours_of(case, config)
    sides: dict[str, Any] = {"ours": ours} | learn2learn_loops(bench, case, config, files)
    sides["functorch's example"] = functorch_loop(case, ours)
    if worker is not None:
        made = {backend: rival_loop(worker, case, ours, written, backend) for backend in rival.BACKENDS}
        taken = {backend: _seconds(loop.step) for backend, loop in made.items()}
        fastest = min(taken, key=lambda backend: taken[backend])
        sides[f"{rival.NAME}, {fastest}"] = made[fastest]
    making: dict[str, list[float]] = {name: [] for name in sides}
    seconds = interleave(
        {name: counted(side, making[name]) for name, side in sides.items()}, bench.rounds, bench.device
    )
    our_making = statistics.median(making["ours"])
    return [
        {
            "label": f"{case.label}: {rival.NAME if name.startswith(rival.NAME) else name}",  # whichever backend was faster this time
            "case": case.label,
            "opponent": name,
            "overrides": [*data, *case.overrides],
            **compared(seconds["ours"], seconds[name]),
            "data": {"ours": our_making, "theirs": statistics.median(making[name])},
            "task_chunk": ours.task_chunk,
        }
        for name in sides
        if name != "ours"
    ]


def learn2learn_loops(
    bench: Bench, case: Case, config: Config, files: peer.ImageFiles | None
) -> dict[str, peer.MAMLLoop]:
    """learn2learn's example loop, as it comes and with its images in memory; none where it has no network of these layers."""
    if case.three_blocks:
        return {}
    dataset, task = build_dataset(config), config["task"]["train"]
    ways, each = task["ways"], task["shots"] + task["queries"]
    samples = {} if files is None else {"learn2learn, image files": files.sample(ways, each)}
    samples["learn2learn, images in memory"] = peer.from_memory(dataset, ways, each)
    return {
        name: peer.MAMLLoop(config, build_algorithm(config, dataset).to(bench.device), sample, bench.device)
        for name, sample in samples.items()
    }


def _seconds(step: Callable[[], object]) -> float:
    """Of the second call."""
    step()
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def tables(record: Record) -> list[Table]:
    rows, before = [], ""
    for row in record["rows"]:
        ours = (milliseconds(row["ours"]["median"]), f"{row['task_chunk']}")
        rows.append(
            (
                "" if row["case"] == before else row["case"],
                row["opponent"],
                *ours,
                milliseconds(row["theirs"]["median"]),
                times(row["ratio"]),
                milliseconds(row["data"]["theirs"]),
                f"{without_data(row):.1f}",
            )
        )
        before = row["case"]
    columns = (
        *("", "opponent", "ours, ms", "task_chunk", "theirs, ms", "ratio (quartiles)"),
        *("of theirs making tasks, ms", "ratio without data"),
    )
    note = (
        "32 tasks of 5 ways and 1 shot where not said otherwise, second order. "
        "functorch's example makes no tasks: it has the same ones in every step. "
        "parallel-metalearn: the faster of its two backends in a step before."
    )
    return [Table("One meta-training step of MAML, data included, beside each opponent", columns, rows, note)]
