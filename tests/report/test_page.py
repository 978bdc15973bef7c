"""The page of a comparison: whole, self-contained, and true to the record."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from metalearn.cli.main import main
from metalearn.report.svg import Line, distributions, line_chart
from tests.runs.made_runs import MSE, config_of, make_run, task_scores

_VOID = {"meta", "link", "img", "br", "hr", "input"}
_SELF_CLOSED = {"circle", "rect", "line", "polyline", "polygon", "path"}


class _Checked(HTMLParser):
    """Every element is closed, in the right order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in _SELF_CLOSED or self.open[-1] == tag:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for seed in range(2):
        for name, mean in (("<b>a</b>", 0.9), ("b", 0.8)):
            steps = {"per_step": [0.2, mean - 0.1, mean], "scored_steps": [0, 1, 2]}
            folder = tmp_path / f"{mean}-{seed}"
            run = make_run(folder, task_scores(mean, seed, 60), config_of(name, seed), **steps)
            rows = "".join(f"{step},{mean - 1 / step},{mean - 2 / step}\n" for step in (10, 20, 30))
            (run / "metrics.csv").write_text(f"step,train/accuracy,val/accuracy\n{rows}")
            entry = {"accuracy": 0.5, "n": 10, "taken_for": {"made:c2": 5}}
            (run / "test_classes.json").write_text(json.dumps({"made:c1": entry}))
    return tmp_path


def page_of(outputs: Path, *flags: str) -> tuple[str, _Checked]:
    file = outputs / "page.html"
    main(["compare", str(outputs), "--html", str(file), *flags])
    text = file.read_text(encoding="utf-8")
    checked = _Checked()
    checked.feed(text)
    assert checked.open == []
    return text, checked


def test_the_page_needs_nothing_else(outputs: Path) -> None:
    text, page = page_of(outputs)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.seen}
    assert not [attrs for _, attrs in page.seen if {"href", "src", "onclick", "onload"} & set(attrs)]
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text


def test_the_page_shows_results_charts_classes_and_runs(outputs: Path) -> None:
    text, page = page_of(outputs)
    for said in (
        "worse",
        "Validation accuracy in training",
        "Test accuracy by inner step",
        "Hardest test classes",
        "c1",
        "taken for",
    ):
        assert said in page.text
    assert text.count("<svg") == 4
    assert text.count('<polygon class="band') == 0  # both seeds are alike here
    assert page.text.count("done") - page.text.count("steps done") == 4  # the axis of inner steps says it once


def test_probabilities_of_all_seeds_are_in_one_reliability_diagram(outputs: Path) -> None:
    for seed, right in enumerate((0.5, 1.0)):
        file = outputs / f"0.9-{seed}" / "results.json"
        record = json.loads(file.read_text())
        record["test"]["calibration"] = {
            "ece": 0.2,
            "nll": 1.0,
            "brier": 0.4,
            "bins": [[1, 0.3, 1.0], [3000, 0.9, right]],
        }
        file.write_text(json.dumps(record))
    text, page = page_of(outputs)
    assert text.count("<svg") == 5
    assert "of 6,000 answers given with 90 %, 75 % are right" in page.text
    assert "given with 30 %" not in page.text, "two answers of six thousand say nothing"


def test_names_are_text_not_markup(outputs: Path) -> None:
    text, page = page_of(outputs)
    assert "<b>" not in text
    assert "<b>a</b>" in page.text


def test_a_page_of_runs_without_anything_but_results(tmp_path: Path) -> None:
    make_run(tmp_path / "m", task_scores(0.2, 1), config_of("m"), kind=MSE, per_task=False)
    make_run(tmp_path / "f", config=config_of("f"), status="failed")
    text, page = page_of(tmp_path)
    assert "<svg" not in text
    assert "failed" in page.text


def test_two_kinds_of_score_have_charts_of_their_own(outputs: Path) -> None:
    make_run(outputs / "m", task_scores(0.2, 1), config_of("m", steps=5), kind=MSE)
    _, page = page_of(outputs)
    assert "Test mse by inner step" not in page.text  # it has no steps
    assert page.text.count("Test tasks") == 2


def test_evaluations_with_other_shots_are_a_line(outputs: Path) -> None:
    run = outputs / "0.9-0"
    for shots in (5, 10):
        record = json.loads((run / "results.json").read_text())
        record |= {"overrides": [f"task.shots={shots}"], "task": {"ways": 5, "shots": shots, "queries": 15}}
        (run / f"eval-{shots}.json").write_text(json.dumps(record))
    text, page = page_of(outputs, "--evals")
    assert "Test accuracy by shots" in page.text
    assert "Test accuracy by ways" not in page.text
    chart = text.partition("Test accuracy by shots")[2].partition("</svg>")[0]
    assert chart.count("<circle") == 3


def test_a_line_runs_through_its_points_and_its_band() -> None:
    chart = line_chart([Line("a", 0, [(0, 0.0, 0.0, 0.1), (10, 1.0, 0.8, 1.0)])], "x", "y", False)
    root = ElementTree.fromstring(str(chart))
    name = "{http://www.w3.org/2000/svg}"
    (first_x, first_y), (last_x, last_y) = (
        tuple(map(float, point.split(",")))
        for point in root.find(f"{name}polyline").attrib["points"].split()  # type: ignore[union-attr]
    )
    assert first_x < last_x
    assert first_y > last_y  # up is more
    assert len(root.find(f"{name}polygon").attrib["points"].split()) == 4  # type: ignore[union-attr]


def test_a_distribution_counts_every_task() -> None:
    values = list(np.random.default_rng(0).random(100))
    root = ElementTree.fromstring(str(distributions([("a", 0, values)], "accuracy", True)))
    titles = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert sum(int(title.split(": ")[1].split()[0]) for title in titles) == 100


def test_charts_of_one_value_or_none_are_drawn_or_left_out() -> None:
    assert "polyline" in line_chart([Line("a", 0, [(5, 0.5, 0.5, 0.5)])], "x", "y", True)
    assert line_chart([Line("a", 0, [])], "x", "y", True) == ""
    assert "rect" in distributions([("a", 0, [0.0, 0.0])], "mse", False)
