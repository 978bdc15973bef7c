"""The model card that lies beside exported files: what they are, how to load them, what was measured, and what they are not good for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metalearn.kinds import scale_of
from metalearn.report.predictions import calibration_lines, of_each, percent
from metalearn.report.text import markdown_table
from metalearn.sizes import bytes_text, count_text

Record = Mapping[str, Any]  # what export.json holds

CARD = "MODEL_CARD.md"
_SHOWN = 20  # names of classes
_PARTS = {"embedding": "images to vectors", "classifier": "images to probabilities of the classes"}


def model_card(record: Record) -> str:
    """The card, in Markdown.

    Args:
        record: what export.json holds.
    """
    run = record["run"]
    title = f"{run['algorithm']} on {run['dataset']}" + (
        f", {count_text(len(record['classes']), 'class', 'classes')}" if record["classes"] else ""
    )
    parts = [
        (f"# Model card: {title}", _opening(record)),
        ("## Files", _files(record)),
        ("## Use", _use(record)),
        ("## Images", _images(record)),
        ("## Classes", _classes(record)),
        ("## Training", _training(record)),
        ("## What was measured", _measured(record)),
        ("## Limits of use", _limits(record)),
    ]
    return "\n".join(f"{head}\n\n" + "\n".join(lines) + "\n" for head, lines in parts if lines)


def check_text(file: Record) -> str:
    """`8e-08 on 1, 3 and 8 images`, of a file of export.json; weights are compared to the bit."""
    if "check" not in file:
        return "equal"
    what = "images" if "images" in file["check"] else "rows"
    *sizes, last = map(str, file["check"][what])
    return f"{file['check']['largest_difference']:.1e} on {', '.join(sizes)} and {last} {what}"


def _opening(record: Record) -> list[str]:
    made = " and ".join(f"a program for {_PARTS[name]}" for name in _names(record))
    of = f"`{record['run']['directory']}`" if record["run"]["directory"] else "a saved classifier"
    return [
        f"Exported from {of} by metalearn {record['metalearn']} on {record['created'][:10]}: {made}. "
        "The files need no metalearn. `export.json` says the same as this card for machines."
    ]


def _names(record: Record) -> list[str]:
    return list(dict.fromkeys(file["part"] for file in record["files"]))


def _files(record: Record) -> list[str]:
    rows = []
    for file in record["files"]:
        gives = f"{_PARTS[file['part']]}, {_shape(file['output']['shape'])}" if "output" in file else "weights by name"
        rows.append([f"`{file['file']}`", gives, bytes_text(file["bytes"]), check_text(file)])
    return [
        *markdown_table(["file", "gives", "size", "largest difference from the model"], rows),
        "",
        "Each file was read again and run beside the trained model. No number of images is the one that the program was traced with.",
    ]


def _shape(shape: list[Any]) -> str:
    return f"float32 [{', '.join(map(str, shape))}]"


def _use(record: Record) -> list[str]:
    channels, height, width = record["images"]["shape"][1:]
    lines = [f"Each program takes any number n of images as uint8 [n, {channels}, {height}, {width}]."]
    of_torch = f"torch.zeros(4, {channels}, {height}, {width}, dtype=torch.uint8)"
    of_numpy = f"numpy.zeros((4, {channels}, {height}, {width}), numpy.uint8)"
    for file in record["files"]:
        lines += ["", "```python", *loading(file, "images", of_torch, of_numpy), "```"]
    return lines


def loading(file: Record, what: str, of_torch: str, of_numpy: str) -> list[str]:
    """Lines of Python that load a file of export.json and run it.

    Args:
        what: the program takes, in a word.
        of_torch, of_numpy: expressions that make some.
    """
    name = file["file"]
    if file["format"] == "pt2":
        return [
            "import torch",
            f"program = torch.export.load({name!r}).module()",
            f"{what} = {of_torch}  # yours",
            f"{file['output']['name']} = program({what})",
        ]
    if file["format"] == "onnx":
        return [
            "import numpy, onnxruntime",
            f"program = onnxruntime.InferenceSession({name!r})",
            f"{what} = {of_numpy}  # yours",
            f"({file['output']['name']},) = program.run(None, {{'{what}': {what}}})",
        ]
    return ["from safetensors.torch import load_file", f"weights = load_file({name!r})  # name -> tensor"]


def _images(record: Record) -> list[str]:
    images = record["images"]
    channels, size, _ = images["shape"][1:]
    inside, before = images["in_program"], images["before_program"]
    colours = {1: "grey", 3: "red, green and blue"}[channels]
    normalize = inside["normalize"]
    lines = [
        f"- A program takes images of {size}x{size} pixels ({colours}), values from 0 to 255.",
        "- Inside the program: values become 0 to 1"
        + (
            f", then mean {normalize['mean']} is taken off and the rest divided by {normalize['std']}"
            if normalize
            else ""
        )
        + ". Do not do it before.",
        f"- Before the program, your code makes squares as metalearn does: `{before['fit']}`"
        + (f", with {before['background']} (or the image's own paper) beside it" if before["fit"] == "pad" else "")
        + ".",
    ]
    if before["paper"]:
        ink, other = (
            ("light ink on dark paper", "dark on light")
            if before["paper"] == "dark"
            else ("dark ink on light paper", "light on dark")
        )
        lines.append(f"- The model knows {ink}: images that are {other} must be inverted (255 - value) first.")
    return lines


def _classes(record: Record) -> list[str]:
    counts = record["classes"]
    if not counts:
        return []
    lines = ["`classifier` gives a probability for each of these, in this order:", ""]
    lines += markdown_table(
        ["", "class", "images learned from"], [[str(i), *map(str, one)] for i, one in enumerate(counts.items())]
    )
    if tried := record["support_check"]:
        lines += [
            "",
            f"{tried['right']} of {tried['images']} of these images are right when each is predicted from the others "
            f"(guessing: {percent(1 / len(counts))}).",
        ]
    return lines


def _training(record: Record) -> list[str]:
    run = record["run"]
    split = run["split"] or {}
    task = run["task"]
    rows = [
        ["algorithm", run["algorithm"]],
        ["backbone", run["backbone"]],
        ["parameters", f"{record['parameters']:,}"],
        ["data set", run["dataset"]],
        ["split", f"{split.get('name', 'unknown')}, sha256 {split.get('sha256', 'unknown')}"],
        [
            "training classes",
            f"{len(record['trained_classes']):,}" if record["trained_classes"] else "not stored in the file",
        ],
        ["outer steps", f"{run['steps']:,} (checkpoint `{run['checkpoint']}`)"],
        ["training tasks", f"{task['train']['ways']}-way {task['train']['shots']}-shot"],
        ["seed", str(run["seed"])],
        ["configuration", run["config_hash"] or "unknown"],
        ["trained with", f"metalearn {run['trained_with'] or 'unknown'}"],
        ["exported with", f"metalearn {record['metalearn']}, torch {record['torch']}"],
    ]
    return markdown_table(["", ""], rows)


def _measured(record: Record) -> list[str]:
    run, test, lines = record["run"], record["test"], []
    if test is None:
        lines.append("- The run was not tested, or its results are not at hand.")
    else:
        kind = scale_of({"kind": record["kind"]} if record["kind"] else {})
        task = run["task"]
        over = test.get("ci95_classes")
        lines.append(
            f"- Test, {task['ways']}-way {task['shots']}-shot on {run['dataset']}, {count_text(test['tasks'], 'task')} of classes kept for it: "
            f"{kind.text(test[kind.score], test['ci95'])} (95 % interval over tasks), "
            + ("no interval over classes" if over is None else f"± {kind.text(over)} over tasks and classes")
            + "."
        )
        if test.get("transductive"):
            lines.append(
                "- That test normalised all queries of a task together. The program predicts each image by itself, with its support set: "
                "expect less."
            )
        if seen := test.get("seen_classes"):
            lines.append(f"- **{seen} TEST CLASSES WERE TRAINING CLASSES: the number says nothing about new classes.**")
        if probabilities := test.get("calibration"):
            lines.append(
                f"- Probabilities in that test, without a temperature: calibration error {percent(probabilities['ece'])}, "
                f"log loss {probabilities['nll']:.3f}, Brier score {probabilities['brier']:.3f}."
            )
    if record["calibration"]:
        lines.append("- Tasks of the size of the classes above, each image by itself:")
        lines += [f"  - {line.strip()}" for line in calibration_lines(record["calibration"])]
    elif record["classes"]:
        lines.append("- No temperature was fitted: take the probabilities as an order, not as chances.")
    return lines


def _limits(record: Record) -> list[str]:
    run, trained = record["run"], record["trained_classes"]
    lines = [
        f"- The model saw images of {run['dataset']} in training, of no other kind. On others it may be wrong and sure."
    ]
    if record["test"] or record["calibration"]:
        lines.append("- The numbers above are of that data set's test classes, not of your classes or your images.")
    if trained:
        more = f" and {len(trained) - _SHOWN:,} more, all in `export.json`" if len(trained) > _SHOWN else ""
        lines.append(f"- Classes it saw in training: {', '.join(f'`{name}`' for name in trained[:_SHOWN])}{more}.")
    if counts := record["classes"]:
        fewest, most = min(counts.values()), max(counts.values())
        images = of_each(most) if fewest == most else f"{fewest} to {most} images of each"
        lines.append(
            f"- It knows {count_text(len(counts), 'class', 'classes')} from {images}. An image of none of them gets one of their labels all the same."
        )
    lines += [f"- {note}" for note in record["notes"]]
    return lines
