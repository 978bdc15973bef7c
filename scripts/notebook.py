"""Writes docs/tour.ipynb: runs its cells and stores their outputs.

    python scripts/notebook.py [--target FILE]

The cells stand here, as text; the notebook is made from them. It runs in an empty folder, so that no path of this machine comes into the outputs.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
CELLS = [
    """\
# A tour from Python

Train two few-shot learners for a few seconds each, compare them, and label pictures that you draw yourself. Nothing is downloaded.
The functions do what the commands do: [python.md](python.md) has the list.""",
    """\
## Tasks

A task has `support` examples with labels and `query` examples to be labelled.
Here are the first two test tasks: 5 characters, one example of each.""",
    """>
import metalearn

tasks = metalearn.draw_tasks("task.queries=2", dataset="glyphs", count=2)
tasks.support.x.shape, tasks.support.y.shape, tasks.query.x.shape""",
    """>
import torch
from IPython.display import display
from PIL import Image


def picture(examples: torch.Tensor) -> Image.Image:
    \"\"\"Examples [n, 1, height, width] side by side, dark ink on white paper.\"\"\"
    row = torch.cat(list(examples[:, 0]), dim=1)
    return Image.fromarray((255 - 255 * row).byte().numpy()).resize((row.shape[1] * 3, row.shape[0] * 3))


display(picture(tasks.support.x[0]), picture(tasks.query.x[0]))""",
    """\
## Train

Settings are keyword arguments, or texts as on the command line. `metalearn.explain("train.steps")` says what a setting means.""",
    """>
short = ("train.steps=60", "train.val_every=30", "backbone.filters=32", "eval.tasks=200", "train.log_seconds=600")
run = metalearn.train(*short, algorithm="protonet", seed=0)""",
    """>
test = run.results["test"]
{name: round(test[name], 4) for name in ("accuracy", "ci95", "ci95_classes")}""",
    """\
Two half widths of 95 % intervals: `ci95` is for other tasks of the same test classes, `ci95_classes` for other test classes.

## Test it under another condition""",
    """>
harder = metalearn.evaluate(run.directory, "task.ways=20")
round(harder["test"]["accuracy"], 4)""",
    """\
## Compare

Two learners, two seeds of each. A list of values makes a sweep. All four runs are tested on the same tasks,
so differences are taken task by task.""",
    """>
rows = metalearn.sweep(*short, algorithm=["protonet", "matching"], seed=[0, 1], sweep_name="tour")
table = metalearn.compare("outputs/multirun/tour")
for row in table["rows"]:
    print(row["name"], round(100 * row["score"], 1), row["difference"] and row["difference"]["verdict"].value)""",
    """\
`None` stands for the baseline, the best row.

## Label your own pictures

Three shapes that are no characters, two examples of each. `predict` adapts the run to them and labels three others.""",
    """>
from PIL import ImageDraw


def drawn(shape: str, shift: int) -> torch.Tensor:
    \"\"\"A shape of light ink on dark paper as [1, 28, 28] in 0..1, as the run's characters are.\"\"\"
    image = Image.new("L", (28, 28), 0)
    draw, low, high = ImageDraw.Draw(image), 5 + shift, 21 + shift
    if shape == "ring":
        draw.ellipse((low, low, high, high), outline=255, width=2)
    elif shape == "cross":
        draw.line((low, low, high, high), fill=255, width=2)
        draw.line((low, high, high, low), fill=255, width=2)
    else:
        draw.line((low, 13, high, 13), fill=255, width=2)
    return torch.tensor(list(image.getdata())).reshape(1, 28, 28) / 255


shapes = ["ring", "cross", "bar"]
support = torch.stack([drawn(shape, shift) for shape in shapes for shift in (0, 3)])
queries = torch.stack([drawn(shape, 1) for shape in shapes])
display(picture(support), picture(queries))""",
    """>
predicted = metalearn.load(run.directory).predict(support, [0, 0, 1, 1, 2, 2], queries)
for shape, label, probabilities in zip(shapes, predicted.labels.tolist(), predicted.probabilities.tolist()):
    print(f"{shape:6} -> {shapes[label]:6}", " ".join(f"{value:.2f}" for value in probabilities))""",
    """\
## And now

- Files instead of tensors: `metalearn.predict(run.directory, "examples", ["new"])` ([predict.md](predict.md)).
- `metalearn.list_runs("outputs")` lists what ran; `metalearn.configuration(algorithm="maml")` is the whole configuration of a run.""",
]


def made() -> Any:
    """The notebook without outputs."""
    notebook = nbformat.v4.new_notebook()
    for number, text in enumerate(CELLS):
        code = text.startswith(">\n")
        cell = nbformat.v4.new_code_cell(text[2:]) if code else nbformat.v4.new_markdown_cell(text)
        cell["id"] = f"cell-{number}"
        notebook.cells.append(cell)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return notebook


def executed(folder: Path) -> Any:
    """The notebook with its outputs; run in `folder`, of which no output may tell.

    Raises:
        CellExecutionError: a cell fails.
    """
    notebook = NotebookClient(made(), timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/jpeg", None)  # Pillow gives each picture twice
            if "text" in output:
                output["text"] = re.sub(rf"{re.escape(str(folder.resolve()))}/?", "", output["text"])
    return notebook


def _joined(outputs: list[Any]) -> list[Any]:
    """What was printed in several goes as one output."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == "stream" and joined[-1].get("name") == output.name:
            joined[-1]["text"] += output.text
        else:
            joined.append(output)
    return joined


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=ROOT / "docs" / "tour.ipynb")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(Path(folder)), arguments.target)


if __name__ == "__main__":
    main()
