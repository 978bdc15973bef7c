"""The embeddings of test examples as files for TensorBoard's projector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.data.base import TEXTS, TaskSource
from metalearn.nn.texts import texts_of
from metalearn.report import drawing
from metalearn.runs.directory import PROJECTOR
from metalearn.tasks import Shape

_POINTS, _CLASSES, _TASKS = 400, 20, 40  # embedded examples, classes they are of, tasks they are taken from, at most
_DIM = 50  # numbers of an embedding that are kept: its first principal components


def embeddings(
    algorithm: Algorithm,
    source: TaskSource,
    shape: Shape,
    form: str,
    shown: Callable[[Tensor], NDArray[np.uint8] | None],
) -> dict[str, bytes]:
    """The files of TensorBoard's projector: embeddings, class names and small images, or texts, of examples of some test classes.

    Those of one task pass the network together, as in the test: it may normalise by their statistics.

    Args:
        shape: of the tasks that the examples are taken from.
        form: of the examples.
        shown: the images of examples as they are seen; None where nobody could see anything.

    Returns:
        name -> content; nothing where there are no classes, no images or no embedding, or fewer than three examples.
    """
    found: dict[tuple[int, bytes], tuple[Tensor, NDArray[np.uint8]]] = {}
    chosen: set[int] = set()
    for number in range(_TASKS if source.classes and source.kind.classifies else 0):
        task = source.tasks(number, 1, shape)
        examples = torch.cat([task.support.x[0], task.query.x[0]])
        images = examples.cpu().numpy() if form == TEXTS else shown(examples)
        embedded = algorithm.embed_examples(examples)
        if images is None or embedded is None:
            return {}
        classes = task.classes[0][torch.cat([task.support.y[0], task.query.y[0]])].tolist()
        for class_, image, point in zip(classes, images, embedded.flatten(1).float().cpu(), strict=True):
            if class_ in chosen or len(chosen) < _CLASSES:
                chosen.add(class_)
                found.setdefault((class_, image.tobytes()), (point, image))  # an image may be in several tasks
        if len(found) >= _POINTS or len(chosen) >= min(_CLASSES, len(source.classes)):
            break
    kept = sorted(found, key=lambda key: key[0])[:_POINTS]
    if len(kept) < 3:
        return {}
    points = _principal(torch.stack([found[key][0] for key in kept]))
    names = [_line(str(source.classes[class_])) for class_, _ in kept]
    if form == TEXTS:
        texts = map(_line, texts_of(torch.from_numpy(np.stack([found[key][1] for key in kept]))))
        names = ["class\ttext", *(f"{name}\t{text}" for name, text in zip(names, texts, strict=True))]
        return _projector(points, names, None)
    return _projector(points, names, drawing.sprite([found[key][1] for key in kept]))


def _line(text: str) -> str:
    """A text as a cell of a table of lines and tabs."""
    return text.replace("\t", " ").replace("\n", " ").replace("\r", " ")


def _projector(points: NDArray[np.float32], labels: list[str], sheet: Any) -> dict[str, bytes]:
    """The files: points [n, D], a line for each (behind one of names, where there are several columns) and, where there is one, their sheet."""
    config, tensors, label_file, small = PROJECTOR
    sprite = ""
    if sheet is not None:
        side = sheet.width // int(np.ceil(np.sqrt(len(points))))
        sprite = f'  sprite {{\n    image_path: "{small}"\n    single_image_dim: {side}\n    single_image_dim: {side}\n  }}\n'
    return {
        tensors: "".join("\t".join(f"{x:.4g}" for x in point) + "\n" for point in points).encode(),
        label_file: "".join(f"{label}\n" for label in labels).encode(),
        **({} if sheet is None else {small: drawing.encoded(sheet, photo=False)}),
        config: (
            f'embeddings {{\n  tensor_name: "test examples"\n  tensor_path: "{tensors}"\n  tensor_shape: {points.shape[0]}\n'
            f'  tensor_shape: {points.shape[1]}\n  metadata_path: "{label_file}"\n{sprite}}}\n'
        ).encode(),
    }


def _principal(points: Tensor) -> NDArray[np.float32]:
    """Points [n, D] by their first principal components, [n, min(n, D, 50)] at most: distances change little, the file stays small."""
    centred = (points - points.mean(0)).double()
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    kept: NDArray[np.float32] = (left * sizes)[:, :_DIM].float().numpy()
    return kept
