"""How the classes of somebody's own images are divided: as folders or a CSV file say, or drawn at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from metalearn.data.cache import Stored
from metalearn.data.classes import SPLITS, ClassSplit, random_split
from metalearn.data.container import FlatImages
from metalearn.errors import UserError
from metalearn.sizes import count_text

_MIN = 2  # classes that a task needs
_USUAL = 5  # ways of the default task: a split gets as many classes where there are enough
_SHARES = {"val": 0.16, "test": 0.2}  # of the classes: those of miniImageNet's split


def divided(
    given: Mapping[str, Sequence[str]],
    counts: Mapping[str, int],
    split: str,
    amounts: Mapping[str, int | str],
    seed: int,
    least: int,
) -> ClassSplit:
    """The split of the classes.

    Args:
        given: class -> the splits that its images' folders or rows name; [""] where they name none.
        counts: class -> images.
        split: "auto" (the given one where there is one, else random), "given" or "random".
        amounts: "val" and "test" -> how many classes are drawn, or "auto".
        seed: of what is drawn.
        least: classes of fewer images are left out before a split is drawn at random.

    Raises:
        UserError: there are too few classes, none or too many are to be drawn, or a class is given to two splits.
    """
    if split == "given" or (split == "auto" and any(any(splits) for splits in given.values())):
        return _given(given, amounts, seed)
    large = [name for name in given if counts[name] >= least]
    enough = f" of {least} images or more" if least > 1 else ""
    chosen = _drawn(large, amounts, seed, f"dataset.root has {count_text(len(large), 'class', 'classes')}{enough}")
    return chosen if len(large) == len(given) else replace(chosen, name=f"{chosen.name}-min{least}")


def _given(given: Mapping[str, Sequence[str]], amounts: Mapping[str, int | str], seed: int) -> ClassSplit:
    """The split that folders or a CSV file name; what they do not name is drawn from the training classes."""
    parts: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name, splits in given.items():
        if len(splits) > 1:
            raise UserError(
                f"dataset.split=given: the class '{name}' has images in {' and '.join(splits)}; a split divides the classes, not the images of "
                "a class (dataset.split=random puts its images together and draws the classes)"
            )
        if not splits[0]:
            raise UserError("dataset.split=given: neither folders train, val and test nor a CSV column name a split")
        parts[splits[0]].append(name)
    missing = {split: amounts[split] if not parts[split] else 0 for split in ("val", "test")}
    if not any(missing.values()):
        return ClassSplit("given", {split: tuple(names) for split, names in parts.items()})
    drawn = _drawn(
        parts["train"], missing, seed, f"the train split has {count_text(len(parts['train']), 'class', 'classes')}"
    )
    chosen = {split: drawn.classes[split] or tuple(parts[split]) for split in SPLITS}
    return ClassSplit(f"given-{drawn.name}", chosen)


def _drawn(names: Sequence[str], amounts: Mapping[str, int | str], seed: int, there: str) -> ClassSplit:
    """A split drawn from `names`, so many classes for validation and test as `amounts` says, the rest for training. `there` counts them in words."""
    drawn = sum(amount != 0 for amount in amounts.values())
    if len(names) < _MIN * (drawn + 1) and "auto" in amounts.values():
        raise UserError(
            f"{there} to be divided: {_MIN * (drawn + 1)} or more are needed, {_MIN} for each split "
            "(more classes, or dataset.val_classes and dataset.test_classes in numbers)"
        )
    # At least as many as the default task has ways, where the split leaves as many for training.
    floor = min(_USUAL, len(names) // (drawn + 1))
    number = {
        split: max(floor, round(_SHARES[split] * len(names))) if amount == "auto" else int(amount)
        for split, amount in amounts.items()
    }
    if sum(number.values()) >= len(names):
        raise UserError(
            f"dataset.val_classes={number['val']} and dataset.test_classes={number['test']} leave no class for training ({there})"
        )
    return random_split(sorted(names), number["val"], number["test"], seed)


def merged(stored: Stored) -> tuple[FlatImages, tuple[str, ...], dict[str, list[str]]]:
    """The examples of each class together, its name, and the splits that name it; stored are those of each class and split, the former in order."""
    given: dict[str, list[str]] = {}
    counts: list[int] = []
    for full, count in zip(stored.class_names, stored.images.counts.tolist(), strict=True):
        name, _, split = full.rpartition("\t")
        if name in given:
            counts[-1] += count
        else:
            counts.append(count)
        given.setdefault(name, []).append(split)
    return FlatImages(stored.images.images, np.array(counts, dtype=np.int64)), tuple(given), given
