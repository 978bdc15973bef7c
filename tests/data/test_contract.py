"""What every data set owes, for each YAML in conf/dataset: a new file is tested the moment it exists."""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metalearn.config.files import choices
from metalearn.data.base import TEXTS, Dataset
from metalearn.data.classes import SPLITS
from metalearn.engine.build import build_dataset, check_tasks
from metalearn.errors import UserError
from metalearn.kinds import CLASSIFICATION, REGRESSION
from metalearn.tasks import VARYING, TaskBatch, TaskShape
from tests.compose import compose
from tests.data.small_sets import SMALL_SETS

CPU = torch.device("cpu")
# Sizes that make a data set small, where it has such settings.
SMALLER = {"classes": 60, "val_classes": 10, "test_classes": 20, "download": False}
# One of each kind of source, for `make check`: drawn, files of characters, photographs, texts, functions, one's own images, texts and table.
FAST = ("glyphs", "omniglot", "cifarfs", "clinc150", "sinusoid", "folder", "text", "tabular")


def config_of(name: str) -> dict[str, Any]:
    """With an algorithm for the data set's kind: those with an inner loop learn every kind."""
    config = compose(f"dataset={name}", "algorithm=maml")
    for node in (config["dataset"], *config["dataset"].get("sources", {}).values()):
        node |= {key: value for key, value in SMALLER.items() if key in node}
    return config


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Given a data set of SMALL_SETS, the folder with its small copy, which is written once."""
    roots: dict[Callable[[Path], None], Path] = {}

    def root(name: str) -> Path:
        write = SMALL_SETS[name]
        if write not in roots:
            roots[write] = tmp_path_factory.mktemp(name)
            write(roots[write])
        return roots[write]

    return root


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of 12 tasks, 24 rows of each."""
    file = tmp_path_factory.mktemp("tabular") / "lines.csv"
    rows = [f"{i},{x},{x * x},{i * x}" for i in range(12) for x in range(24)]
    file.write_text("\n".join(["task,a,b,y", *rows]) + "\n")
    return file


@pytest.fixture(scope="session")
def small_config(small_root: Callable[[str], Path], table: Path) -> Callable[[str], dict[str, Any]]:
    """Given a data set, its configuration, as small as it can be; its files are written when they are first asked for."""

    @functools.cache
    def made(name: str) -> dict[str, Any]:
        config = config_of(name)
        node = config["dataset"]
        if name in SMALL_SETS:
            node |= {"root": str(small_root(name))} | ({"size": 16} if "size" in node else {})
        if name == "tabular":
            node |= {"file": str(table)}
        return config

    return made


@pytest.fixture(
    scope="module",  # what is loaded serves all tests before the next
    params=[pytest.param(name, marks=() if name in FAST else pytest.mark.thorough) for name in choices("dataset")],
)
def config(request: pytest.FixtureRequest, small_config: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return small_config(request.param)


@pytest.fixture(scope="module")
def dataset(config: dict[str, Any]) -> Dataset:
    try:
        return build_dataset(config)
    except UserError as error:
        if '"root"' not in json.dumps(config["dataset"]):  # of the data set, or of one that it is made of
            raise
        pytest.skip(f"its files are not here: {error}")


def shape_of(config: dict[str, Any]) -> TaskShape:
    """Its own; where the number of support points varies, of ten."""
    task = config["task"]
    return TaskShape.of(task | {"shots": 10} if task["shots"] == VARYING else task)


def tensors(tasks: TaskBatch) -> list[torch.Tensor]:
    return [tasks.support.x, tasks.support.y, tasks.query.x, tasks.query.y, tasks.classes]


@pytest.mark.thorough
def test_it_says_what_it_is(dataset: Dataset, config: dict[str, Any]) -> None:
    assert dataset.name == config["names"]["dataset"]
    assert dataset.kind in (CLASSIFICATION, REGRESSION)
    assert dataset.split.name
    assert len(dataset.split.sha256) == 64
    for split in SPLITS:
        source = dataset.source(split, 0, CPU)
        assert (source.name, source.kind, source.split) == (dataset.name, dataset.kind, split)
        assert source.classes == dataset.classes(split)


def test_its_own_task_fits_every_split(dataset: Dataset, config: dict[str, Any]) -> None:
    check_tasks(dataset, config["task"], *SPLITS)


def test_tasks_have_the_shapes_that_were_asked_for(dataset: Dataset, config: dict[str, Any]) -> None:
    shape = shape_of(config)._replace(shots=2, queries=3)
    tasks = dataset.source("train", 0, CPU).tasks(0, 4, shape)
    assert tasks.support.x.shape == (4, shape.ways * 2, *dataset.input_shape)
    assert tasks.query.x.shape == (4, shape.ways * 3, *dataset.input_shape)
    assert tasks.query.y.shape[:2] == (4, shape.ways * 3)
    assert tasks.classes.shape == (4, shape.ways)
    assert tasks.support.x.dtype == (torch.uint8 if dataset.form == TEXTS else torch.float32)
    assert tasks.support.ways == shape.ways
    outputs = torch.zeros(4, shape.ways * 3, shape.ways)
    assert dataset.kind.loss(outputs, tasks.query.y).shape == (4,)


@pytest.mark.parametrize("split", SPLITS)
def test_a_task_is_a_function_of_seed_split_and_number(dataset: Dataset, config: dict[str, Any], split: str) -> None:
    shape = shape_of(config)
    whole = dataset.source(split, 5, CPU).tasks(3, 6, shape)
    again = dataset.source(split, 5, CPU)
    again.tasks(0, 2, shape)  # nothing is remembered from one call to the next
    for number in reversed(range(6)):
        for part, of_all in zip(tensors(again.tasks(3 + number, 1, shape)), tensors(whole), strict=True):
            assert torch.equal(part[0], of_all[number])
    other = dataset.source(split, 6, CPU).tasks(3, 6, shape)
    assert not torch.equal(other.query.x, whole.query.x)


def test_splits_share_no_class_and_no_task(dataset: Dataset, config: dict[str, Any]) -> None:
    for one, other in itertools.combinations(SPLITS, 2):
        classes = [{class_.upright for class_ in dataset.classes(split)} for split in (one, other)]
        assert not classes[0] & classes[1]
        tasks = [dataset.source(split, 0, CPU).tasks(0, 4, shape_of(config)).query.x for split in (one, other)]
        assert not torch.equal(*tasks)


@pytest.fixture(scope="session")
def hashes_elsewhere(small_config: Callable[[str], dict[str, Any]]) -> dict[str, str]:
    """The hash of each data set's split in one other process; none of those whose files are not here."""
    program = """
import json, sys
from metalearn.engine.build import build_dataset
from metalearn.errors import UserError
hashes = {}
for name, config in json.load(sys.stdin).items():
    try:
        hashes[name] = build_dataset(config).split.sha256
    except UserError:
        pass
print(json.dumps(hashes))
"""
    configs = {name: small_config(name) for name in choices("dataset")}
    command, texts = [sys.executable, "-c", program], json.dumps(configs)
    run = subprocess.run(command, input=texts, capture_output=True, text=True, check=True, timeout=900)
    return dict(json.loads(run.stdout))


@pytest.mark.thorough
def test_the_hash_of_a_split_is_the_same_in_another_process(
    config: dict[str, Any], dataset: Dataset, hashes_elsewhere: dict[str, str]
) -> None:
    """Python's own hashes and the order of its sets differ from process to process."""
    assert hashes_elsewhere[config["names"]["dataset"]] == dataset.split.sha256


def test_impossible_tasks_are_refused_in_one_line(dataset: Dataset, config: dict[str, Any]) -> None:
    for shape in (shape_of(config)._replace(ways=10**6), shape_of(config)._replace(ways=0)):
        with pytest.raises(UserError) as error:
            dataset.check("test", shape)
        assert "\n" not in str(error.value)
        assert str(shape.ways) in str(error.value)


@pytest.mark.parametrize("name", choices("dataset"))
def test_a_hostile_root_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    config = config_of(name)
    if "root" not in config["dataset"]:
        pytest.skip("it has no files")
    (tmp_path / "file").write_text("<html>not found</html>")
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "file", tmp_path / "empty", tmp_path / "nowhere", Path("/dev/null")):
        with pytest.raises(UserError, match=r"dataset\.root") as error:
            build_dataset(config | {"dataset": config["dataset"] | {"root": str(root)}})
        assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
