"""Measures how fast tasks of photographs are made, beside torchvision's loader over the same files.

    python scripts/bench_pipeline.py [--json FILE] [--rounds N] [--check]

5-way 1-shot tasks of 15 queries from 84x84 images in colour, resident and mapped; and the same files through torchvision's ImageFolder and a
DataLoader that gets the images of one task as a batch, with its usual numbers of workers. All take turns. Nothing is computed with the tasks. The
images are drawn here, stored as JPEG, and have their size already: the peer has nothing to resize. --check only compares the table of docs/data
with the record.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2 as transforms

from metalearn.bench.harness import compared, spread
from metalearn.compose.composer import composer
from metalearn.data.base import TaskSource
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_dataset
from metalearn.engine.host_memory import keep_freed_memory
from metalearn.report.text import between, markdown_table
from metalearn.runs.directory import write_json, write_text
from metalearn.runs.environment import environment, machine_text
from metalearn.tasks import TaskShape

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "pipeline.json", ROOT / "docs" / "data" / "index.md"
BEGIN, END = "<!-- pipeline:begin -->", "<!-- pipeline:end -->"
CPU = torch.device("cpu")
Record = dict[str, Any]


class Speed(NamedTuple):
    """How large the comparison is."""

    classes: int = 50  # ours are drawn from the training part, the peer's from all
    images: int = 60  # of each class
    size: int = 84
    shape: TaskShape = TaskShape(5, 1, 15)
    tasks: int = 40  # in one turn of one side
    batch: int = 4  # tasks that are made together
    workers: tuple[int, ...] = (0, 2, 4)
    rounds: int = 5


CHANGES = {"crop": 0.5, "flip": 0.5, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
MEAN, STD = [0.47, 0.45, 0.4], [0.28, 0.27, 0.28]


def write_jpegs(root: Path, how: Speed) -> None:
    """Images with structure at several scales, so that their files are about as large as those of photographs: root/CLASS/NUMBER.jpg."""
    rng = np.random.default_rng(0)
    for number in range(how.classes):
        folder = root / f"class{number:03d}"
        folder.mkdir(parents=True)
        for image in range(how.images):
            drawn = np.zeros((how.size, how.size, 3))
            for cells, weight in ((3, 0.5), (12, 0.3), (42, 0.2)):
                coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
                drawn += weight * np.asarray(coarse.resize((how.size, how.size), Image.Resampling.BICUBIC))
            Image.fromarray(drawn.astype(np.uint8)).save(folder / f"{image:04d}.jpg", quality=90)


def ours(root: Path, how: Speed, images: str, changed: bool) -> Iterator[Callable[[], object]]:
    """Makes some tasks, then hands out what makes `how.tasks` further ones."""
    settings = ("dataset.split=random", f"dataset.size={how.size}", "dataset.channels=3")
    normalize = f"dataset.normalize={{mean:{MEAN},std:{STD}}}"
    with composer() as composing:
        config, _ = composing.job(["dataset=folder", f"dataset.root={root}", *settings, normalize], 0)
    dataset = build_dataset(config)
    assert isinstance(dataset, ImageClasses)
    dataset = dataset.kept_in_file() if images == "mapped" else dataset
    source: TaskSource = dataset.source("train", 0, CPU, CHANGES if changed else None)
    firsts = itertools.count(0, how.batch)

    def make(tasks: int) -> None:
        for first in itertools.islice(firsts, tasks // how.batch):
            source.tasks(first, how.batch, how.shape)

    with contextlib.closing(source):
        make(4 * how.batch)
        yield lambda: make(how.tasks)


def theirs(root: Path, how: Speed, workers: int, changed: bool) -> Iterator[Callable[[], object]]:
    """Likewise, by a DataLoader whose batches are the images of one task; workers start anew, and fill their queue before."""
    one, jitter = how.shape, [CHANGES[key] for key in ("brightness", "contrast", "saturation")]
    random = [
        transforms.RandomResizedCrop(how.size, (1 - CHANGES["crop"], 1)),
        transforms.RandomHorizontalFlip(CHANGES["flip"]),
        transforms.ColorJitter(*jitter),
    ]
    steps = [transforms.ToImage(), *(random if changed else []), transforms.ToDtype(torch.float32, scale=True)]
    folder = ImageFolder(str(root), transforms.Compose([*steps, transforms.Normalize(MEAN, STD)]))
    filled = 2 * workers
    rng = np.random.default_rng(0)

    def one_task() -> list[int]:
        classes = rng.permutation(how.classes)[: one.ways]
        drawn = [rng.permutation(how.images)[: one.shots + one.queries] for _ in classes]
        return [int(c) * how.images + int(i) for c, images in zip(classes, drawn, strict=True) for i in images]

    loader: DataLoader[Any] = DataLoader(
        folder, batch_sampler=[one_task() for _ in range(how.tasks + 2 * filled + 1)], num_workers=workers
    )
    batches, shape = iter(loader), (one.ways, one.shots + one.queries)

    def make(tasks: int) -> None:
        for images, _ in itertools.islice(batches, tasks):
            examples = images.unflatten(0, shape)
            examples[:, : one.shots].flatten(0, 1), examples[:, one.shots :].flatten(0, 1)

    make(filled + 1)
    yield lambda: make(how.tasks)
    make(2 * filled)  # the rest, so that the workers end


def measured(how: Speed) -> Record:
    """Tasks per second of every side, and the ratio to each peer in the same round."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="metalearn-pipeline-") as folder, own_cache(Path(folder) / "cache"):
        root = Path(folder) / "images"
        write_jpegs(root, how)
        for changed in (False, True):
            sides: dict[str, Callable[[], Iterator[Callable[[], object]]]] = {
                "resident": lambda c=changed: ours(root, how, "device", c),  # type: ignore[misc]
                "mapped": lambda c=changed: ours(root, how, "mapped", c),  # type: ignore[misc]
            }
            for workers in how.workers:
                sides[f"DataLoader, {workers} workers"] = lambda w=workers, c=changed: theirs(root, how, w, c)  # type: ignore[misc]
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            names = list(sides)
            for turn in range(how.rounds):
                print(f"{'changed' if changed else 'plain'} images: round {turn + 1} of {how.rounds}")
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    seconds[name].append(timed(sides[name]))
            rows += [summary(name, changed, times, seconds, how) for name, times in seconds.items()]
        files = [file.stat().st_size for file in root.rglob("*.jpg")]
    shape = how._asdict() | {"shape": how.shape._asdict(), "file_bytes": sum(files) / len(files)}
    return {"how": shape, "rows": rows, "environment": environment("cpu")}


def timed(side: Callable[[], Iterator[Callable[[], object]]]) -> float:
    for make in side():
        started = time.perf_counter()
        make()
        seconds = time.perf_counter() - started
    return seconds


def summary(name: str, changed: bool, times: list[float], seconds: dict[str, list[float]], how: Speed) -> Record:
    rates = [how.tasks / each for each in times]
    peers = {
        peer: compared(times, theirs_)["ratio"] for peer, theirs_ in seconds.items() if peer.startswith("DataLoader")
    }
    return {
        "side": name,
        "changed": changed,
        "tasks_per_second": spread(rates),
        "ratios": {} if name in peers else peers,
    }


@contextlib.contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    before = os.environ.get("METALEARN_CACHE")
    os.environ["METALEARN_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("METALEARN_CACHE")
        if before is not None:
            os.environ["METALEARN_CACHE"] = before


def table(made: Record) -> list[str]:
    """The part of docs/data that the record decides."""
    how, machine = made["how"], made["environment"]
    peers = [f"DataLoader, {workers} workers" for workers in how["workers"]]
    rows = []
    for row in made["rows"]:
        rate = row["tasks_per_second"]
        ratios = [f"{row['ratios'][peer]['median']:.1f}" if peer in row["ratios"] else "" for peer in peers]
        shown = f"{rate['median']:.1f} ({rate['lower']:.1f} to {rate['upper']:.1f})"
        rows.append([row["side"], "changed" if row["changed"] else "plain", shown, *ratios])
    return [
        *markdown_table(["", "images", "tasks/s", *(f"times {peer}" for peer in peers)], rows),
        "",
        f"5-way 1-shot tasks with 15 queries, {how['size']}x{how['size']} pixels in colour, JPEG files of {how['file_bytes'] / 1000:.1f} kB; "
        "changed images: crops, mirror images, brightness, contrast, saturation. Medians and quartiles of "
        f"{how['rounds']} rounds of {how['tasks']} tasks, in turn; {machine_text(machine)}, beside other work.",
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--rounds", type=int, default=Speed().rounds)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args(argv)
    if not asked.check:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
        keep_freed_memory()  # as metalearn train does; in this process it speeds up both sides
        write_json(asked.json, measured(Speed(rounds=asked.rounds)))
    before = PAGE.read_text(encoding="utf-8")
    page = between(before, BEGIN, END, table(json.loads(asked.json.read_text(encoding="utf-8"))))
    if asked.check and page != before:
        sys.exit(f"{PAGE} is out of date: run python scripts/bench_pipeline.py")
    write_text(PAGE, page)


if __name__ == "__main__":
    main()
