"""test_tasks.npz of a run and eval-<time>-tasks.npz of an evaluation: the test, task by task, to compute other statistics from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from metalearn import atomic
from metalearn.data.classes import ClassId
from metalearn.engine.evaluate import Scores
from metalearn.kinds import REGRESSION
from metalearn.report import terminal


def write_tasks(path: Path, scores: Scores) -> None:
    """Writes the scores of T tasks atomically; `numpy.load` reads them without unpickling.

    - score, float32 [T]: the kind's score after adaptation
    - loss, float32 [T]
    - further/NAME, float32 [T]: each further score of the algorithm
    - about/NAME, [T]: a number or a text for each task: `about/ways` and `about/shots` (the mean over its classes) of tasks of uneven size,
      `about/source` where they come from several data sets
    - classes, unsigned [T, N], and class_names, text [C]: which classes a task has, in the order of its labels; not where tasks have no
      classes. Where some tasks have fewer than N, classes is signed and -1 stands for the rest

    Task i is task i of the split's stream: files of runs with the same `eval.seed`, `dataset` and `task` can be compared task by task.
    Where it cannot be written, the console says so, and no more: that must not cost the number.
    """
    arrays = {"score": scores.score[-1].float().numpy(), "loss": scores.loss.float().numpy()}
    arrays |= {f"further/{name}": values.float().numpy() for name, values in scores.further.items()}
    arrays |= {f"about/{name}": np.array(values) for name, values in scores.about.items()}
    if scores.classes is not None:
        most, least = max(len(scores.class_ids) - 1, 0), int(scores.classes.min())
        smallest = np.min_scalar_type(most) if least >= 0 else np.promote_types(np.min_scalar_type(-most), np.int8)
        arrays["classes"] = scores.classes.numpy().astype(smallest)
        arrays["class_names"] = np.array([str(one) for one in scores.class_ids])
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    try:
        atomic.write(path, content.getvalue())
    except OSError as error:
        terminal.error_line(f"{path} cannot be written: {error.strerror or error}")


def read_tasks(path: Path | str) -> Scores:
    """What `write_tasks` wrote, as Scores of the state after adaptation; the kind and the inner steps are not in the file (results.json has them).

    Raises:
        OSError: there is no such file.
    """
    with np.load(path, allow_pickle=False) as found:
        about = {
            name.removeprefix("about/"): tuple(found[name].tolist()) for name in found if name.startswith("about/")
        }
        others = [name for name in found if name not in ("classes", "class_names") and not name.startswith("about/")]
        arrays = {name: torch.from_numpy(found[name]) for name in others}
        score, loss = arrays.pop("score"), arrays.pop("loss")
        further = {name.removeprefix("further/"): values for name, values in arrays.items()}
        if "classes" not in found:
            return Scores(score[None], [0], loss, further, REGRESSION, about=about)
        classes = torch.from_numpy(found["classes"].astype(np.int64))
        ids = tuple(ClassId.parse(str(name)) for name in found["class_names"])
    return Scores(score[None], [0], loss, further, classes=classes, class_ids=ids, about=about)
