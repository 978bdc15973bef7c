"""What a user sees in TensorBoard, asked of the real server that `metalearn tensorboard` starts over runs that `metalearn train` made."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

import metalearn
from metalearn.cli.main import main
from metalearn.errors import UserError
from metalearn.runs.shown import chosen
from metalearn.runs.tensorboard import Board
from tests.compose import FEW_GLYPHS
from tests.runs.made_runs import config_of, make_run, task_scores

TINY = [
    *FEW_GLYPHS,
    "task.queries=3",
    "task.train.queries=3",
    "train.meta_batch_size=2",
    "train.steps=4",
    "train.val_every=2",
]
TINY += ["train.log_every=1", "train.val_tasks=3", "eval.tasks=6", "eval.pictures=2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over filters and schedule, one run with inner steps, one of regression, one of an earlier version."""
    folder = tmp_path_factory.mktemp("runs")
    before = Path.cwd()
    os.chdir(folder)
    try:
        varied = ["backbone.filters=2,4", "train.schedule=cosine,constant", "sweep_name=small"]
        main(["train", "-m", *TINY, *varied])
        main(["train", *TINY, "algorithm=maml", "backbone.filters=2", "hydra.run.dir=outputs/inner"])
        numbers = [word for word in TINY if not word.startswith(("dataset.", "task.train.ways"))]
        main(["train", *numbers, "dataset=sinusoid", "algorithm=maml", "hydra.run.dir=outputs/waves"])
    finally:
        os.chdir(before)
    return folder / "outputs"


@pytest.fixture(scope="module")
def board(runs: Path) -> Iterator[Board]:
    with metalearn.tensorboard(
        runs / "multirun", runs / "inner", filters=["dataset=glyphs"], port=free_port()
    ) as board:
        wait_for(board, {one.name for one in board.shown})
        yield board


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(board: Board, names: set[str]) -> None:
    """Until the server has read these runs to their end."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        tags = ask(board, "plugin/scalars/tags")
        if set(tags) == names and all(any(tag.startswith("test/") for tag in found) for found in tags.values()):
            return
        time.sleep(0.2)
    pytest.fail(f"TensorBoard does not show {names}: {tags}")


def raw(board: Board, place: str, body: dict[str, Any] | None = None) -> bytes:
    request = urllib.request.Request(f"{board.address}data/{place}", headers={"Content-Type": "application/json"})
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(request, data=data, timeout=20) as answer:
        content: bytes = answer.read()
    return content


def ask(board: Board, place: str, body: dict[str, Any] | None = None) -> Any:
    return json.loads(raw(board, place, body))


SWEPT = [f"protonet schedule={schedule} filters={filters}" for filters in (2, 4) for schedule in ("cosine", "constant")]


@pytest.mark.thorough
def test_runs_are_called_by_what_tells_them_apart(board: Board) -> None:
    assert sorted(ask(board, "runs")) == sorted([*SWEPT, "maml"])


def test_training_and_validation_come_first_and_no_card_says_nothing(board: Board) -> None:
    tags = ask(board, "plugin/scalars/tags")[SWEPT[0]]
    assert sorted(tags) == [
        "accuracy/train",
        "accuracy/val",
        "loss/train",
        "loss/val",
        "test/accuracy",
        "training/lr",
        "training/tasks_per_second",
    ]


def test_curves_are_the_columns_of_metrics_csv(board: Board, runs: Path) -> None:
    from metalearn.runs.tracking import read_metrics

    (one,) = [one for one in board.shown if one.name == SWEPT[0]]
    rows = read_metrics(one.run.path / "metrics.csv")
    for column, tag in (("train/loss", "loss/train"), ("val/accuracy", "accuracy/val"), ("test/accuracy",) * 2):
        points = ask(board, f"plugin/scalars/scalars?tag={quote(tag, safe='')}&run={quote(one.name)}")
        assert [step for _, step, _ in points] == [row["step"] for row in rows if column in row]
        assert [value for *_, value in points] == pytest.approx([row[column] for row in rows if column in row])


def test_one_card_has_training_and_validation(board: Board) -> None:
    page = ask(board, "plugin/custom_scalars/layout")
    (category,) = page["category"]
    assert [chart["title"] for chart in category["chart"]] == ["accuracy", "loss"]
    pattern = quote("accuracy/train$|accuracy/val$", safe="")
    found = ask(board, f"plugin/custom_scalars/scalars?run={quote(SWEPT[0])}&tag={pattern}")
    assert set(found["tag_to_events"]) == {"accuracy/train", "accuracy/val"}


def table(board: Board) -> tuple[list[str], dict[str, str], dict[str, dict[str, Any]]]:
    """Columns, titles of scores by tag, and the settings of each run in TensorBoard's table."""
    about = ask(board, "plugin/hparams/experiment", {"experimentName": "", "includeMetrics": True})
    statuses = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    asked = {"startIndex": 0, "sliceSize": 50, "allowedStatuses": statuses, "colParams": []}
    for info in about["hparamInfos"]:
        asked["colParams"].append({"hparam": info["name"], "includeInResult": True})
    for info in about["metricInfos"]:
        asked["colParams"].append({"metric": info["name"], "includeInResult": True})
    groups = ask(board, "plugin/hparams/session_groups", asked)["sessionGroups"]
    rows = {}
    for group in groups:
        (session,) = group["sessions"]
        scores = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
        rows[session["name"]] = {**group["hparams"], **scores, "status": session["status"]}
    titles = {info["name"]["tag"]: info["displayName"] for info in about["metricInfos"]}
    return [info["name"] for info in about["hparamInfos"]], titles, rows


def test_the_table_has_what_varies_and_the_scores(board: Board) -> None:
    columns, titles, rows = table(board)
    assert columns == ["algorithm", "backbone.filters", "train.schedule"]  # without what the algorithm implies
    assert titles == {"test/accuracy": "test accuracy", "accuracy/val": "validation accuracy"}
    assert set(rows) == {*SWEPT, "maml"}
    said = {(row["backbone.filters"], row["train.schedule"]) for name, row in rows.items() if name != "maml"}
    assert said == {(2, "cosine"), (2, "constant"), (4, "cosine"), (4, "constant")}
    for one in board.shown:
        row = rows[one.name]
        assert row["status"] == "STATUS_SUCCESS"
        assert row["test/accuracy"] == pytest.approx(one.run.results["test"]["accuracy"])
        assert row["accuracy/val"] >= 0


def test_tasks_and_the_curve_over_inner_steps_are_pictures(board: Board) -> None:
    found = ask(board, "plugin/images/tags")
    assert set(found[SWEPT[0]]) == {"test_tasks/1", "test_tasks/2"}
    assert set(found["maml"]) == {"test_tasks/1", "test_tasks/2", "test_tasks/inner_steps"}
    for tag, about in found["maml"].items():
        assert "score of this task" in about["description"] or "inner steps" in about["description"]
        (image,) = ask(board, f"plugin/images/images?run=maml&tag={quote(tag, safe='')}&sample=0")
        with Image.open(io.BytesIO(raw(board, f"plugin/images/individualImage?{image['query']}"))) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 10


def test_the_configuration_is_a_text_with_what_was_chosen_first(board: Board) -> None:
    assert ask(board, "plugin/text/tags")["maml"] == ["configuration"]
    ((said),) = ask(board, "plugin/text/text?run=maml&tag=configuration")
    page = said["text"]
    assert page.index("backbone.filters") < page.index("All settings") < page.index("meta_batch_size:")


def test_embeddings_of_metric_methods_are_in_the_projector(board: Board) -> None:
    deadline = time.monotonic() + 30
    while not (found := ask(board, "plugin/projector/runs")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert sorted(found) == sorted(SWEPT)  # an inner loop compares no examples
    run = quote(SWEPT[0])
    (points,) = ask(board, f"plugin/projector/info?run={run}")["embeddings"]
    name = quote(points["tensorName"])
    count, dim = points["tensorShape"]
    assert len(raw(board, f"plugin/projector/tensor?run={run}&name={name}")) == 4 * count * dim
    labels = raw(board, f"plugin/projector/metadata?run={run}&name={name}").decode().splitlines()
    assert len(labels) == count
    assert 5 <= len(set(labels)) <= 12
    side = points["sprite"]["singleImageDim"][0]
    with Image.open(io.BytesIO(raw(board, f"plugin/projector/sprite_image?run={run}&name={name}"))) as sheet:
        assert (sheet.width // side) * (sheet.height // side) >= count


@pytest.mark.thorough
def test_a_run_that_starts_later_is_added(runs: Path) -> None:
    with Board([runs], ["algorithm=maml", "dataset=sinusoid"], free_port()) as board:
        wait_for(board, {"maml"})
        tags = ask(board, "plugin/scalars/tags")["maml"]
        assert {"mse/train", "mse/val", "test/mse"} <= set(tags)
        assert set(ask(board, "plugin/images/tags")["maml"]) == {
            "test_tasks/1",
            "test_tasks/2",
            "test_tasks/inner_steps",
        }
        numbers = [word for word in TINY if not word.startswith(("dataset.", "task.train.ways"))]
        later = [*numbers, "dataset=sinusoid", "algorithm=maml", "seed=1", f"hydra.run.dir={runs / 'later'}"]
        main(["train", *later])
        (new,) = board.refresh()
        assert new.run.path.name == "later"
        wait_for(board, {"maml", new.name})
        assert not board.refresh()


def test_a_run_of_an_earlier_version_has_its_curves_under_the_same_tags() -> None:
    earlier = Path(__file__).parent / "of_version_0_1_0"
    with Board([earlier / "sweep"], port=free_port()) as board:
        names = {one.name for one in board.shown}
        assert len(names) == 2
        wait_for(board, names)
        assert all(
            {"accuracy/train", "accuracy/val", "test/accuracy"} <= set(t)
            for t in ask(board, "plugin/scalars/tags").values()
        )
        assert {row["seed"] for row in table(board)[2].values()} == {0, 1}


def test_names_and_what_is_left_out(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = make_run(tmp_path / f"a{seed}", task_scores(0.9, seed), config_of(seed=seed))
        (run / "metrics.csv").write_text("step,train/loss\n1,0.5\n")
    waiting = make_run(tmp_path / "b", config=config_of(lr=0.5), status="failed")
    shown, left_out = chosen([tmp_path])
    assert [one.name for one in shown] == ["net seed=0", "net seed=1"]
    assert [run.path for run in left_out] == [waiting]
    with pytest.raises(UserError, match="no curves"):
        chosen([waiting])
    with pytest.raises(UserError, match="no run is left by seed=7"):
        chosen([tmp_path], ["seed=7"])


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as leaving:
        main(["tensorboard", *words])
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_cannot_be_shown_is_said_in_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no folder 'outputs'" in refused(capsys)
    assert "nowhere" in refused(capsys, "nowhere")
    assert "a port is a number from 1 to 65535" in refused(capsys, str(runs), "--port", "70000")
    assert "no run is left by seed=9" in refused(capsys, str(runs), "seed=9")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert f"--port {port} cannot be used" in refused(capsys, str(runs), "--port", port)


def test_the_command_serves_until_it_is_ended(runs: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "metalearn",
        "tensorboard",
        str(runs / "inner"),
        "--json",
        "--port",
        str(free_port()),
    ]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    root = Path(metalearn.__file__).parents[1]
    environment["PYTHONPATH"] = str(root)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            lines = []
            while (line := process.stdout.readline()) and line != "}\n":
                lines.append(line)
            record = json.loads("".join([*lines, "}"]))
            assert [run["name"] for run in record["runs"]] == ["maml"]
            with urllib.request.urlopen(record["address"], timeout=10) as answer:
                assert answer.status == 200
        finally:
            process.terminate()
        assert process.wait(60) == 143
    assert not list(tmp_path.glob("metalearn-*"))  # its folder is gone, and with it the server
    with pytest.raises(OSError, match=r"refused"):
        urllib.request.urlopen(record["address"], timeout=10)
