"""What `metalearn predict` shows: lines about how far the probabilities can be trusted, a table or a CSV file of the images."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from metalearn.sizes import count_text

_TOP = 3  # labels of an image in the table, unless another number is asked for
_ABSTAINS = "(abstains)"
_IMAGES = "images"  # what is labelled, in a record that does not say it

Record = Mapping[str, Any]  # what `--json` prints


def summary(record: Record) -> list[str]:
    """Lines about the model, the images, and what was measured."""
    counts, what = record["classes"], record.get("examples", _IMAGES)
    each = set(counts.values())
    images = of_each(each.pop(), what) if len(each) == 1 else ", ".join(f"{n} {c}" for n, c in counts.items())
    if len(counts) > 12 and images.count(","):
        images = f"{min(counts.values())} to {max(counts.values())} {what} of each"
    lines = [
        f"model: {record['run']}, outer step {record['step']}",
        f"classes: {len(counts)}, learned from {images}",
        f"{what}: {record['images']}",
    ]
    if tried := record["support_check"]:
        chance = 100 / len(counts)
        lines.append(
            f"your {what}: {tried['right']} of {tried['images']} support {what} are right when each is predicted from the others "
            f"(guessing: {chance:.0f} %)"
        )
    if calibration := record["calibration"]:
        lines += calibration_lines(calibration, what)
    if sets := record["sets"]:
        lines.append(_sets(sets, record["calibration"]))
    if abstaining := record["abstaining"]:
        lines.append(_abstaining(abstaining))
    if folders := record["folders"]:
        lines.append(
            f"folders: {folders['right']} of {folders['images']} labelled {what} lie in a folder of their label"
        )
    return lines + [f"note: {note}" for note in record["notes"]]


def calibration_lines(of: Record, what: str = _IMAGES) -> list[str]:
    """What was fitted on validation tasks and measured on test tasks."""
    shots = of["shots"]
    size = (
        f"{len(shots)} classes, {of_each(shots[0], what)}"
        if len(set(shots)) == 1
        else f"{len(shots)} classes, {_list(shots)} {what}"
    )
    before, after = of["before"], of["after"]
    lines = [
        f"probabilities: temperature {of['temperature']:.3g}, fitted on {of['fitted']:,} validation tasks of {of['dataset']} ({size})",
        f"  on {of['tested']:,} test tasks of {of['dataset']}: {100 * of['accuracy']:.2f} ± {100 * of['ci95']:.2f} % right; calibration error "
        f"{100 * after['ece']:.1f} % (without temperature {100 * before['ece']:.1f} %), log loss {after['nll']:.3f} ({before['nll']:.3f}), "
        f"Brier score {after['brier']:.3f} ({before['brier']:.3f})",
    ]
    if not of["as_asked"]:
        lines.append(
            f"  {of['dataset']} has no tasks as large as yours: these are the largest that fit, so take the numbers as a hint"
        )
    return lines


def of_each(count: int, what: str = _IMAGES) -> str:
    """`3 images of each`; without any, descriptions tell the classes."""
    if count == 0:
        return "a description of each"
    return f"{count_text(count, what.removesuffix('s'))} of each"


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) if len(numbers) <= 8 else f"{min(numbers)} to {max(numbers)}"


def _sets(sets: Record, calibration: Record) -> str:
    where = f"{calibration['tested']:,} test tasks of {calibration['dataset']}"
    every = "; too few validation tasks for this coverage: every label is in the set" if sets["threshold"] >= 2 else ""
    less = (
        "; less than asked for: the test classes are harder than the validation classes"
        if sets["measured"] + sets["ci95"] < sets["coverage"]
        else ""
    )
    return (
        f"sets: {100 * sets['coverage']:.4g} % asked for; measured on {where}: {100 * sets['measured']:.2f} ± {100 * sets['ci95']:.2f} % hold the "
        f"right label, {sets['size']:.2f} labels a set{every}{less}. Guaranteed for tasks like its validation tasks only"
    )


def _abstaining(of: Record) -> str:
    right = "none" if of["accuracy"] is None else f"{100 * of['accuracy']:.2f} % of these"
    return (
        f"abstaining below {of['asked']}: {100 * of['answered']:.1f} % of the test queries are answered, {right} right"
    )


def columns(record: Record, top: int | None = None) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the table of images."""
    with_sets = record["sets"] is not None
    shown = min(top or _TOP, len(record["classes"]))
    head = [_one(record), "label", "probability", *(["then"] if shown > 1 else []), *(["set"] if with_sets else [])]
    rows = []
    for one in record["predictions"]:
        if "error" in one:
            rows.append([one["image"], "(unreadable)", "", *([""] * (len(head) - 3))])
            continue
        ranked = list(one["probabilities"].items())[:shown]
        row = [one["image"], one["label"] or _ABSTAINS, percent(one["probability"])]
        if shown > 1:
            begin = 0 if one["label"] is None else 1
            row.append(", ".join(f"{name} {percent(p)}" for name, p in ranked[begin:]))
        rows.append([*row, *([set_text(one["set"])] if with_sets else [])])
    return head, rows


def _one(record: Record) -> str:
    """image or text"""
    examples: str = record.get("examples", _IMAGES)
    return examples.removesuffix("s")


def percent(p: float) -> str:
    """`93.1 %` of 0.931."""
    return f"{100 * p:.1f} %"


def set_text(members: Sequence[str]) -> str:
    """The labels of a prediction set."""
    return "{" + ", ".join(members) + "}"


def as_csv(record: Record, top: int | None = None) -> str:
    """A line for each image; with `top` the best labels in order, else a probability for each class."""
    predictions, classes = record["predictions"], list(record["classes"])
    head = [_one(record), "label", "probability"]
    if record["sets"] is not None:
        head.append("set")
    optional = [key for key in ("abstained", "error") if any(key in one for one in predictions)]
    head += optional
    count = min(top or 0, len(classes))
    head += [f"{what}_{i}" for i in range(1, count + 1) for what in ("label", "probability")] if top else classes
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for one in predictions:
        p = one["probability"]
        row = [one["image"], one["label"] or "", "" if p is None else f"{p:.6f}"]
        if record["sets"] is not None:
            row.append("|".join(one.get("set", ())))
        row += [str(one.get(key, "")).lower() if key == "abstained" else one.get(key, "") for key in optional]
        ranked = one["probabilities"]
        if top:
            cells = [cell for name, p in list(ranked.items())[:count] for cell in (name, f"{p:.6f}")]
            row += cells or [""] * (2 * count)
        else:
            row += [f"{ranked[name]:.6f}" if name in ranked else "" for name in classes]
        writer.writerow(row)
    return text.getvalue()
