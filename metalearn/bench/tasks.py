"""Benchmark 1: few-shot tasks per second."""

from __future__ import annotations

from collections.abc import Callable

from metalearn.bench import peer
from metalearn.bench.harness import Bench, Config, Record, Table, compared, interleave, times
from metalearn.bench.ours import images
from metalearn.engine.build import build_dataset
from metalearn.tasks import TaskShape

_OURS_AT_ONCE = 32  # tasks of a meta-batch, as in the example that steps compares with


def measure(bench: Bench) -> Record:
    config = bench.config(*images(bench), "task=5way_1shot")
    dataset, shape = build_dataset(config), TaskShape.of(config["task"]["train"])
    source = dataset.source("train", 0, bench.device)
    made = 0

    def ours() -> None:
        nonlocal made
        source.tasks(made, _OURS_AT_ONCE, shape)
        made += _OURS_AT_ONCE

    ways, each = shape.ways, shape.shots + shape.queries
    in_memory = peer.from_memory(dataset, ways, each)
    actions: dict[str, Callable[[], object]] = {"ours": ours, "the images in memory": in_memory}
    if (files := image_files(config)) is not None:
        actions["image files, as it comes"] = files.sample(ways, each)
    seconds = interleave(actions, bench.rounds, bench.device)
    mine = [second / _OURS_AT_ONCE for second in seconds.pop("ours")]
    return {
        "dataset": config["names"]["dataset"],
        "classes": len(source.classes),
        "rows": [{"label": label, **compared(mine, theirs)} for label, theirs in seconds.items()],
    }


def image_files(config: Config) -> peer.ImageFiles | None:
    """learn2learn's own way to the configuration's images, where there are files."""
    return peer.ImageFiles(config) if "root" in config["dataset"] else None


def tables(record: Record) -> list[Table]:
    def rate(seconds: float) -> str:
        return f"{1 / seconds:,.0f}"

    rows = [
        (row["label"], rate(row["ours"]["median"]), rate(row["theirs"]["median"]), times(row["ratio"]))
        for row in record["rows"]
    ]
    title = f"5-way 1-shot 15-query tasks per second, {record['dataset']}, {record['classes']} training classes"
    return [Table(title, ("learn2learn's tasksets over", "ours", "theirs", "ratio (quartiles)"), rows)]
