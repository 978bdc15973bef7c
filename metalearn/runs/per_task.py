"""test_tasks.npz of a run and eval-<time>-tasks.npz of an evaluation: the test, task by task, to compute other statistics from."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metalearn import atomic
from metalearn.data.classes import ClassId
from metalearn.errors import UserError
from metalearn.kinds import REGRESSION
from metalearn.report import terminal

if TYPE_CHECKING:  # whoever only compares results needs no torch
    from numpy.typing import NDArray

    from metalearn.engine.evaluate import Scores


_SOURCE = "source"  # as metalearn.tasks has it, which needs torch


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
    import torch

    from metalearn.engine.evaluate import Scores

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


@dataclass(frozen=True)
class TaskScores:
    """The scores of T tasks, read without torch.

    Attributes:
        score: [T], the kind's score after adaptation.
        tasks: what tells the tasks apart: files with equal ones hold scores of tasks of the same classes.
    """

    path: Path
    score: NDArray[np.float64]
    tasks: tuple[Any, ...]

    @classmethod
    def read(cls, path: Path) -> TaskScores:
        """What `write_tasks` wrote.

        The classes are not read: the checksums in the archive say whether two files hold the same ones.

        Raises:
            UserError: there is no such file, or it cannot be read.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                sums = {one.filename: one.CRC for one in archive.infolist()}
                with archive.open("score.npy") as file:
                    score = np.lib.format.read_array(io.BytesIO(file.read()), allow_pickle=False)
        except FileNotFoundError as error:
            raise UserError(f"there is no {path}") from error
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        of_tasks = tuple(sums.get(f"{name}.npy") for name in ("classes", "class_names", f"about/{_SOURCE}"))
        return cls(path, score.astype(np.float64), of_tasks)

    def shared(self, other: TaskScores) -> int:
        """How many of the first tasks are of the same classes in both, all of the shorter one or none."""
        n = min(len(self.score), len(other.score))
        if self.tasks == other.tasks:
            return n
        mine, others = self.classes(), other.classes()
        if mine is None or others is None:
            return n if mine is others else 0
        same = all(np.array_equal(one[:n], another[:n]) for one, another in zip(mine, others, strict=True))
        return n if same and self.upright_names() == other.upright_names() else 0

    def upright_names(self) -> list[str]:
        """The upright classes, in the order of their numbers."""
        with np.load(self.path, allow_pickle=False) as found:
            names = found.get("class_names", ())
            return list(dict.fromkeys(str(ClassId.parse(str(name)).upright) for name in names))

    def classes(self) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """(upright class of each label [T, N], -1 where a task has fewer; number of its data set [T]); None where tasks have no classes.

        What was drawn is the upright class: its turned copies are drawn with it.
        """
        with np.load(self.path, allow_pickle=False) as found:
            if "classes" not in found:
                return None
            of_tasks = found["classes"].astype(np.int64)
            ids = [ClassId.parse(str(name)).upright for name in found["class_names"]]
            sources = found[f"about/{_SOURCE}"] if f"about/{_SOURCE}" in found else np.zeros(len(of_tasks))
        numbers = {of: number for number, of in enumerate(dict.fromkeys(ids))}
        upright = np.array([numbers[one] for one in ids])
        return np.where(of_tasks >= 0, upright[of_tasks], -1), np.unique(sources, return_inverse=True)[1].ravel()
