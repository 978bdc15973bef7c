"""The model card beside an exported regressor: what it predicts from what, how to load it, what was measured, and what it is not good for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metalearn.kinds import scale_of
from metalearn.report.model_card import check_text, loading
from metalearn.report.text import markdown_table
from metalearn.sizes import bytes_text, count_text

Record = Mapping[str, Any]  # what export.json holds


def numbers_card(record: Record) -> str:
    """The card, in Markdown.

    Args:
        record: what export.json holds.
    """
    run = record["run"]
    parts = [
        (f"# Model card: {run['algorithm']} on {run['dataset']}, {', '.join(record['targets'])}", _opening(record)),
        ("## Files", _files(record)),
        ("## Use", _use(record)),
        ("## Columns", _columns(record)),
        ("## Training", _training(record)),
        ("## What was measured", _measured(record)),
        ("## Limits of use", _limits(record)),
    ]
    return "\n".join(f"{head}\n\n" + "\n".join(lines) + "\n" for head, lines in parts if lines)


def _opening(record: Record) -> list[str]:
    of = f"`{record['run']['directory']}`" if record["run"]["directory"] else "a saved regressor"
    return [
        f"Exported from {of} by metalearn {record['metalearn']} on {record['created'][:10]}: a program for rows of inputs to rows of targets, "
        f"which learned one task from {count_text(record['points'], 'point')}. The files need no metalearn. "
        "`export.json` says the same as this card for machines."
    ]


def _files(record: Record) -> list[str]:
    rows = []
    for file in record["files"]:
        gives = f"rows to {', '.join(record['targets'])}" if "output" in file else "weights by name"
        rows.append([f"`{file['file']}`", gives, bytes_text(file["bytes"]), check_text(file)])
    return [
        *markdown_table(["file", "gives", "size", "largest difference from the model"], rows),
        "",
        "Each file was read again and run beside the trained model. No number of rows is the one that the program was traced with.",
    ]


def _use(record: Record) -> list[str]:
    d = len(record["inputs"])
    lines = [
        f"Each program takes any number n of rows as float32 [n, {d}]: {', '.join(record['inputs'])}, in this order."
    ]
    for file in record["files"]:
        lines += [
            "",
            "```python",
            *loading(file, "rows", f"torch.zeros(4, {d})", f"numpy.zeros((4, {d}), numpy.float32)"),
            "```",
        ]
    return lines


def _columns(record: Record) -> list[str]:
    units = record["units"]
    rows = []
    for what, part in (("input", "inputs"), ("target", "targets")):
        for name, mean, std in zip(record[part], units[f"{what}_mean"], units[f"{what}_std"], strict=True):
            rows.append([name, what, f"{mean:.6g}", f"{std:.6g}"])
    return [
        "Numbers go in and come out in the units of the table. Inside the program they are less their mean, over their deviation:",
        "",
        *markdown_table(["column", "", "mean", "deviation"], rows),
    ]


def _training(record: Record) -> list[str]:
    run, task = record["run"], record["run"]["task"]
    rows = [
        ["algorithm", run["algorithm"]],
        ["backbone", run["backbone"]],
        ["parameters", f"{record['parameters']:,}"],
        ["data set", run["dataset"]],
        ["outer steps", f"{run['steps']:,} (checkpoint `{run['checkpoint']}`)"],
        ["training tasks", f"{task['train']['shots']} support points"],
        ["seed", str(run["seed"])],
        ["configuration", run["config_hash"] or "unknown"],
        ["exported with", f"metalearn {record['metalearn']}, torch {record['torch']}"],
    ]
    return markdown_table(["", ""], rows)


def _measured(record: Record) -> list[str]:
    test, lines = record["test"], []
    if test is None:
        lines.append("- The run was not tested, or its results are not at hand.")
    else:
        kind = scale_of({"kind": record["kind"]} if record["kind"] else {})
        over = test.get("ci95_classes")
        lines.append(
            f"- Test, {count_text(record['run']['task']['shots'], 'support point')}, {count_text(test['tasks'], 'task')} of "
            f"{record['run']['dataset']}: {kind.score} {kind.text(test[kind.score], test['ci95'])} (95 % interval over tasks"
            + (
                ")"
                if over is None
                else f"), ± {kind.text(over, digits=kind.digits(test[kind.score]))} over tasks and {kind.drawn}"
            )
            + "."
        )
        for name, score in test.get("further", {}).items():
            lines.append(f"- {name.replace('_', ' ')}: {kind.text(score['mean'], score['ci95'])}.")
    if checked := record["support_check"]:
        each = ", ".join(
            f"{name} {mse:.4g} (the mean of the others: {simple:.4g})"
            for name, mse, simple in zip(record["targets"], checked["mse"], checked["of_mean"], strict=True)
        )
        lines.append(
            f"- Mean squared error of {checked['points']} of the points, each predicted from the others: {each}."
        )
    return lines


def _limits(record: Record) -> list[str]:
    return [
        f"- It knows one task, from {record['points']} points. Far from their inputs it may be wrong; the program does not say how sure it is.",
        f"- The test above is of other tasks of {record['run']['dataset']}, not of this one.",
        *(f"- {note}" for note in record["notes"]),
    ]
