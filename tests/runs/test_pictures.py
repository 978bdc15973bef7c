"""Pictures and embeddings of test tasks, as TensorBoard shows them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.cli.main import main
from metalearn.data.base import TaskSource
from metalearn.engine.build import Parts, assemble
from metalearn.engine.evaluate import Scores, evaluate
from metalearn.kinds import REGRESSION
from metalearn.nn.texts import texts_of
from metalearn.report import drawing
from metalearn.report.drawing import RIGHT, WRONG, Answer, Chart, ClassRow, Line, chart_picture, task_picture
from metalearn.report.task_text import Answered, TextRow, task_text
from metalearn.runs.pictures import Pictures, pictures
from metalearn.tasks import Examples, Shape, TaskBatch, TaskShape
from tests.compose import FEW_GLYPHS, compose

TINY = [*FEW_GLYPHS, "backbone.filters=4", "task.queries=3", "task.train.queries=3", "eval.tasks=4"]


def parts_of(*overrides: str) -> tuple[Parts, Scores]:
    parts = assemble(compose(*TINY, *overrides))
    settings = parts.settings
    scores = evaluate(parts.algorithm, parts.source("test"), settings.task, settings.eval.tasks, 4, stepwise=True)
    return parts, scores


def drawn(parts: Parts, scores: Scores, count: int = 2) -> Pictures:
    normalize = parts.dataset.trained_on.normalize
    return pictures(parts.algorithm, parts.source("test"), parts.settings.task, count, scores, normalize)


def colours(picture: Image.Image) -> dict[tuple[int, ...], int]:
    return {colour: count for count, colour in picture.convert("RGB").getcolors(1 << 22) or []}  # type: ignore[misc]


def test_frames_say_what_is_right() -> None:
    grey = np.full((16, 16, 3), 128, np.uint8)
    rows = [
        ClassRow("first", [grey], [Answer(grey, 0, 0.9), Answer(grey, 1, 0.6)]),
        ClassRow("second", [grey], [Answer(grey, 1, 0.8), Answer(grey, 1, 0.7)]),
    ]
    found = colours(task_picture("title", rows))
    assert found[RIGHT] > 3 * 4 * 56
    assert found[WRONG] > 3 * 4 * 56
    all_right = [ClassRow("first", [grey], [Answer(grey, 0, 0.9)])]
    assert WRONG not in colours(task_picture("title", all_right))


@pytest.mark.parametrize("ys", [[0.2, 0.5, 0.9], [1.0, 1.0, 1.0], [-3e-7, 2e-7, 0.0], [1e6, 2e6, 3e7]])
def test_charts_of_any_scale_are_drawn(ys: list[float]) -> None:
    line = Line("score", [0, 1, 2], ys, [0.0, abs(ys[1]) / 10, 0.0])
    assert chart_picture(Chart("title", "x", "y", [line])).size == (520, 320)


def test_a_single_point_is_drawn() -> None:
    assert chart_picture(Chart("title", "x", "y", [Line("a", [1.0], [2.0])], [(1.0, 2.0)])).size == (520, 320)


def test_colour_images_are_shown_as_they_were_before_normalisation() -> None:
    words = ["dataset.channels=3"]
    plain, scores = parts_of(*words)
    normalised, others = parts_of(*words, "dataset.normalize={mean: [0.9, 0.1, 0.5], std: [0.2, 2.0, 1.0]}")
    one, other = (drawn(*both).files["embeddings.png"] for both in ((plain, scores), (normalised, others)))
    with Image.open(io.BytesIO(one)) as first, Image.open(io.BytesIO(other)) as second:
        difference = np.asarray(first.convert("RGB"), float) - np.asarray(second.convert("RGB"), float)
    assert abs(difference).mean() < 2
    (picture, *_) = drawn(plain, scores).pictures.values()
    assert picture.content[:2] == b"\xff\xd8"  # a JPEG file


def test_what_is_drawn_changes_nothing_and_is_the_same_again() -> None:
    parts, scores = parts_of("algorithm=maml")
    before = {name: value.clone() for name, value in parts.algorithm.state_dict().items()}
    parts.algorithm.train()
    one, other = drawn(parts, scores), drawn(parts, scores)
    assert one == other
    assert set(one.pictures) == {"test_tasks/1", "test_tasks/2", "test_tasks/inner_steps"}
    assert not one.files
    assert parts.algorithm.training
    assert all(torch.equal(before[name], value) for name, value in parts.algorithm.state_dict().items())


def test_large_and_uneven_tasks_are_cut_to_what_there_is_room_for() -> None:
    parts, scores = parts_of("task.ways=12", "task.shots=9", "task.queries=8")
    for picture in drawn(parts, scores, 1).pictures.values():
        assert picture.width < 960
        assert picture.height < 960
    uneven, others = parts_of("task=varying", "task.max_ways=6", "task.max_support=20", "task.train.ways=5")
    assert len(drawn(uneven, others, 3).pictures) == 3


def test_embeddings_are_of_distinct_examples_each_with_its_class() -> None:
    parts, scores = parts_of()
    files = drawn(parts, scores).files
    points = [line.split("\t") for line in files["embeddings.tsv"].decode().splitlines()]
    names = files["embeddings_classes.tsv"].decode().splitlines()
    assert len(points) == len(names)
    assert len(set(map(tuple, points))) == len(points)
    assert set(names) <= {str(one) for one in parts.source("test").classes}


def test_without_pictures_there_are_none(tmp_path: Path) -> None:
    words = ["train.steps=2", "train.val_every=2", "train.val_tasks=3", "eval.pictures=0"]
    main(["train", *TINY, *words, f"hydra.run.dir={tmp_path / 'run'}"])
    (file,) = (tmp_path / "run").glob("events.out.*")
    assert b"test_tasks" not in file.read_bytes()
    assert not list((tmp_path / "run").glob("embeddings*"))


def test_what_goes_wrong_with_pictures_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("no such font")

    monkeypatch.setattr("metalearn.runs.pictures.pictures", broken)
    monkeypatch.setattr(logging.getLogger("metalearn"), "propagate", True)
    words = ["train.steps=2", "train.val_every=2", "train.val_tasks=3"]
    main(["train", *TINY, *words, f"hydra.run.dir={tmp_path / 'run'}"])
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "done"
    assert "no pictures of test tasks: ValueError: no such font" in (tmp_path / "run" / "run.log").read_text()


class Doubling(Algorithm):
    """Predicts 0 before its only step, then twice the first input."""

    def adapt(self, support: Examples) -> float:
        return 2.0

    def adapt_stepwise(self, support: Examples) -> Iterator[float]:
        yield from (0.0, 2.0)

    def predict(self, adapted: float, query_x: Tensor) -> Tensor:
        return adapted * query_x[..., :1]


class ThreeRows(TaskSource):
    """The same task again and again: two inputs, one target."""

    name, kind, split, device, classes = "rows", REGRESSION, "test", torch.device("cpu"), ()

    def tasks(self, first: int, count: int, shape: Shape) -> TaskBatch:
        x = torch.tensor([[[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]])
        rows = Examples(x, torch.tensor([[[2.0], [5.0], [6.0]]]), 1)
        return TaskBatch(rows, rows, torch.zeros(1, 1, dtype=torch.int64))


def test_tasks_of_several_inputs_show_predictions_against_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    charts: list[Chart] = []

    def kept(chart: Chart) -> Image.Image:
        charts.append(chart)
        return chart_picture(chart)

    monkeypatch.setattr(drawing, "chart_picture", kept)
    scores = Scores(torch.zeros(1, 1), [0], torch.zeros(1), {}, REGRESSION)
    found = pictures(Doubling(), ThreeRows(), TaskShape(1, 3, 3), 1, scores)
    (chart,) = charts
    assert chart.points == [(2.0, 2.0), (5.0, 4.0), (6.0, 6.0)], "after adaptation"
    assert chart.targets == [(2.0, 0.0), (5.0, 0.0), (6.0, 0.0)], "before"
    assert (chart.lines[0].x, chart.lines[0].y) == ([2.0, 6.0], [2.0, 6.0])
    assert "mse 0.3333 over 3 queries" in chart.title
    assert "rings: before adaptation" in found.pictures["test_tasks/1"].about


def test_tasks_of_texts_are_tables_and_the_projector_has_the_texts(texts_file: Path) -> None:
    words = ("dataset=text", f"dataset.root={texts_file}", "backbone.buckets=64", "backbone.hidden=[8]", "task.ways=3")
    parts = assemble(compose("algorithm=protonet", *words, "task.queries=3", "task.train.ways=3", "eval.tasks=4"))
    task = parts.settings.task
    scores = evaluate(parts.algorithm, parts.source("test"), task, 4, 4, stepwise=True)
    found = pictures(parts.algorithm, parts.source("test"), task, 2, scores, None, parts.dataset.form)
    assert not found.pictures
    first = found.texts["test_tasks/1"]
    batch = parts.source("test").tasks(0, 1, task)
    named = [parts.source("test").classes[int(number)].name for number in batch.classes[0]]
    assert all(f"| {name} | {text} |" in first for name, text in zip(named, texts_of(batch.support.x[0]), strict=True))
    assert first.count(" %") == 1 + 9, "the score, and the probability of each query"
    lines = found.files["embeddings_classes.tsv"].decode().splitlines()
    assert lines[0] == "class\ttext"
    assert len(lines) - 1 == len(found.files["embeddings.tsv"].decode().splitlines())
    every = {text for line in texts_file.read_text().splitlines() for text in [line.partition(",")[0]]}
    assert {line.split("\t")[1] for line in lines[1:]} <= every
    assert "embeddings.png" not in found.files
    assert b"sprite" not in found.files["projector_config.pbtxt"]


def test_what_a_text_holds_is_no_markup() -> None:
    row = TextRow("a|b", ["<img src=x>\nnext"], [Answered("**x** | y", "c", 0.5), Answered("z", "a|b", 1.0)])
    made = task_text("Test", [row])
    assert "<img" not in made
    assert "| &#60;img src=x&#62; next |" in made
    assert "| &#42;&#42;x&#42;&#42; &#124; y | a&#124;b | **c** | 50 % |" in made
    assert made.index("**c**") < made.index("| z |")
