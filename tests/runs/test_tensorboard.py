"""What a user sees in TensorBoard, asked of the real server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from metalearn.runs.tracking import Tracker

RUNS = {
    "0-maml": ({"algorithm": "maml", "inner_lr": 0.5}, [(10, 1.5), (20, 0.75)], 0.9375, "done"),
    "1-protonet": ({"algorithm": "protonet"}, [(10, 1.25), (20, 0.5)], 0.875, "failed"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a TensorBoard that shows RUNS."""
    logdir = tmp_path_factory.mktemp("logdir")
    for name, (hparams, losses, accuracy, status) in RUNS.items():
        write_run(logdir / name, dict(hparams), losses, accuracy, status)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(logdir),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    output = logdir.with_name("server.txt")
    with output.open("wb") as file:
        # A session of its own, so that its data server can be ended with it.
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, process, output)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def write_run(
    run_dir: Path, hparams: dict[str, object], losses: list[tuple[int, float]], accuracy: float, status: str
) -> None:
    run_dir.mkdir()
    tracker = Tracker(run_dir, hparams)
    for step, loss in losses:
        tracker.log(step, {"train/loss": loss})
    tracker.log(losses[-1][0], {"test/accuracy": accuracy})
    tracker.close(status)


def wait_for(address: str, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + 25
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if set(ask(f"{address}/data/runs")) == set(RUNS):
                return
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.1)
    pytest.fail(f"TensorBoard does not show the runs: {output.read_text()}")


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(url, headers={"Content-Type": "application/json"})
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(request, data=data, timeout=10) as answer:
        return json.load(answer)


def test_every_runs_scalars_are_there(server: str) -> None:
    tags = ask(f"{server}/data/plugin/scalars/tags")
    assert {run: set(found) for run, found in tags.items()} == {run: {"train/loss", "test/accuracy"} for run in RUNS}
    for run, (_, losses, accuracy, _) in RUNS.items():
        for tag, expected in (("train/loss", losses), ("test/accuracy", [(20, accuracy)])):
            points = ask(f"{server}/data/plugin/scalars/scalars?tag={quote(tag, safe='')}&run={quote(run)}")
            assert [(step, value) for _, step, value in points] == expected


def test_one_table_holds_all_runs_with_the_union_of_their_hyperparameters(server: str) -> None:
    experiment = ask(f"{server}/data/plugin/hparams/experiment", {"experimentName": "", "includeMetrics": True})
    assert {info["name"] for info in experiment["hparamInfos"]} == {"algorithm", "inner_lr"}
    assert ("", "test/accuracy") in {(info["name"]["group"], info["name"]["tag"]) for info in experiment["metricInfos"]}

    statuses = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    columns = [{"metric": {"group": "", "tag": "test/accuracy"}, "order": "ORDER_DESC"}]
    table = ask(
        f"{server}/data/plugin/hparams/session_groups",
        {"startIndex": 0, "sliceSize": 50, "allowedStatuses": statuses, "colParams": columns},
    )
    assert table["totalSize"] == 2
    found = []
    for group in table["sessionGroups"]:
        (session,) = group["sessions"]
        accuracies = [metric["value"] for metric in group["metricValues"] if metric["name"]["tag"] == "test/accuracy"]
        found.append((session["name"], group["hparams"], accuracies, session["status"]))
    assert found == [
        ("0-maml", {"algorithm": "maml", "inner_lr": 0.5}, [0.9375], "STATUS_SUCCESS"),
        ("1-protonet", {"algorithm": "protonet"}, [0.875], "STATUS_FAILURE"),
    ]
