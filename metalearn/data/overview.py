"""What a loaded data set holds, in lines: counts, sizes, splits, and the largest task of each split."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from metalearn.data.base import Dataset
from metalearn.data.classed import Classed
from metalearn.data.classes import SPLITS, TURNED
from metalearn.sizes import count_text


def overview(dataset: Dataset) -> Iterator[str]:
    """One line about the whole, one about the division, one about each split."""
    if not isinstance(dataset, Classed):
        yield f"{dataset.name}: {dataset.kind.name} tasks; an example has the shape {list(dataset.input_shape)}"
        yield f"split '{dataset.split.name}', sha256 {dataset.split.sha256}"
        yield from (f"  {split}: {text}" for split in SPLITS if (text := dataset.described(split)))
        yield from dataset.notes
        return
    counts = dataset.stored.counts
    turned = sum(name.startswith(TURNED) for name in dataset.class_names)
    copies = f" ({turned} of them turned copies)" if turned else ""
    yield (
        f"{count_text(len(counts), 'class', 'classes')}{copies}, "
        f"{count_text(int(counts.sum()), dataset.examples_are.removesuffix('s'))} ({_spread(counts.tolist())} a class), "
        f"{dataset.one_example}"
    )
    yield f"split '{dataset.split.name}', sha256 {dataset.split.sha256}"
    for split in SPLITS:
        yield f"  {split}: {_of_split(dataset, split)}"


def _of_split(dataset: Classed, split: str) -> str:
    names = dataset.split.classes[split]
    if not names:
        return "no class"
    counts = np.array(dataset.counts(split))
    turns = dataset.rotations[split]
    turned = f" ({turns * len(names)} with their turned copies)" if turns > 1 else ""
    least = int(counts.min())
    largest = (
        f"largest task {turns * len(names)} ways, shots and queries together {least}"
        if least > 1 and turns * len(names) > 1
        else f"no task: '{names[int(counts.argmin())]}' has {least} {dataset.examples_are.removesuffix('s')}, a task needs 2"
        if least < 2
        else "no task: it needs 2 classes"
    )
    examples = count_text(int(counts.sum()), dataset.examples_are.removesuffix("s"))
    return f"{count_text(len(names), 'class', 'classes')}{turned}, {examples}, {_spread(counts.tolist())} a class; {largest}"


def _spread(counts: list[int]) -> str:
    """`20` where all are equal, else `41 to 60 (median 60)`."""
    if min(counts) == max(counts):
        return f"{counts[0]}"
    return f"{min(counts)} to {max(counts)} (median {np.median(counts):g})"
