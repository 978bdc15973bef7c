"""What `metalearn predict` shows of a run that predicts numbers: lines about the model and its errors, a table or a CSV file of the rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from metalearn.sizes import count_text

_INPUTS = 4  # columns of the table

Record = Mapping[str, Any]  # what `--json` prints


def summary(record: Record) -> list[str]:
    """Lines about the model and what was measured."""
    points = record["points"]
    lines = [
        f"model: {record['run']}, outer step {record['step']}",
        f"predicts {', '.join(record['targets'])} from {', '.join(record['inputs'])}, learned from {points} point{'s' * (points != 1)}",
    ]
    if tried := record["support_check"]:
        each = ", ".join(
            f"{name} {error:.4g} (the mean of the others: {tried['mse_of_mean'][name]:.4g})"
            for name, error in tried["mse"].items()
        )
        lines.append(f"your points: mean squared error of {tried['points']}, each predicted from the others: {each}")
    if error := record["error"]:
        each = ", ".join(f"{name} {mse:.4g} (absolute {error['mae'][name]:.4g})" for name, mse in error["mse"].items())
        lines.append(f"mean squared error of {count_text(error['rows'], 'row')} whose targets are there: {each}")
        if within := error.get("within_95"):
            each = ", ".join(f"{name} {100 * share:.0f} %" for name, share in within.items())
            lines.append(f"of these, within the predicted 95 % interval, ± 1.96 deviations: {each}")
    return lines + [f"note: {note}" for note in record["notes"]]


def columns(record: Record) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the table."""
    inputs, targets, rows = record["inputs"][:_INPUTS], record["targets"], record["predictions"]
    files = len({row["file"] for row in rows}) > 1
    known, unsure = any("targets" in row for row in rows), any("deviations" in row for row in rows)
    head = [*(["file"] if files else []), "row", *inputs]
    for name in targets:
        head += [f"{name}, predicted", *(["± deviation"] if unsure else []), *([name] if known else [])]
    lines = []
    for row in rows:
        cells = [*([row["file"]] if files else []), str(row["row"]), *(f"{row['inputs'][name]:.6g}" for name in inputs)]
        for name in targets:
            cells.append(f"{row['predicted'][name]:.6g}")
            if unsure:
                cells.append(f"{row['deviations'][name]:.3g}")
            if known:
                cells.append(f"{row['targets'][name]:.6g}" if "targets" in row else "")
        lines.append(cells)
    return head, lines


def as_csv(record: Record) -> str:
    """A row for each row of the queries: file, row, inputs, `predicted_NAME` of each target, `deviation_NAME` where there is one, known targets."""
    inputs, targets, rows = record["inputs"], record["targets"], record["predictions"]
    known, unsure = any("targets" in row for row in rows), any("deviations" in row for row in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    deviations = [f"deviation_{name}" for name in targets] if unsure else []
    head = ["file", "row", *inputs, *(f"predicted_{name}" for name in targets), *deviations]
    writer.writerow(head + (list(targets) if known else []))
    for row in rows:
        cells = [row["file"], row["row"], *(row["inputs"][name] for name in inputs)]
        cells += [row["predicted"][name] for name in targets]
        cells += [row["deviations"][name] for name in targets] if unsure else []
        writer.writerow(cells + ([row.get("targets", {}).get(name, "") for name in targets] if known else []))
    return text.getvalue()
