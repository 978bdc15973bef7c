"""Several processes on one run: the same result, written once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from metalearn.engine.ranks import Ranks, check_share, launched
from metalearn.errors import UserError
from metalearn.runs.tracking import read_metrics

TINY = (
    *("dataset.classes=30", "dataset.val_classes=8", "dataset.test_classes=8", "dataset.size=16", "backbone.filters=4"),
    *(
        "task.queries=3",
        "train.steps=6",
        "train.val_every=3",
        "train.val_tasks=4",
        "train.log_every=2",
        "eval.tasks=4",
        "eval.pictures=0",
    ),
    *("train.checkpoint_every=3", "train.meta_batch_size=5", "train.task_chunk=1", "device=cpu"),
)

SECONDS = 240  # seconds that a run of a test may take on a busy machine; a process that waits for another for ever must not hold up all tests


@pytest.mark.parametrize(("tasks", "count"), [(5, 2), (4, 4), (32, 3), (7, 1)])
def test_shares_are_all_tasks_once_and_nearly_equal(tasks: int, count: int) -> None:
    shares = [Ranks(rank, count).share(tasks) for rank in range(count)]
    assert [task for share in shares for task in share] == list(range(tasks))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_talks_to_nobody() -> None:
    x = torch.ones(3)
    Ranks().add([x])
    Ranks().average([x])
    assert torch.equal(x, torch.ones(3))
    assert Ranks().broadcast([0.5, 2.0], torch.device("cpu")) == [0.5, 2.0]
    assert Ranks().all_reduce_max(15, torch.device("cpu")) == 15


def test_the_environment_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() == Ranks(0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched() == Ranks(2, 4)
    assert not launched().first
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(UserError, match="RANK=4 with WORLD_SIZE=4"):
        launched()
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(UserError, match="must be numbers"):
        launched()


def test_more_processes_than_tasks_are_refused() -> None:
    check_share(Ranks(0, 4), 4)
    with pytest.raises(UserError, match=r"train.meta_batch_size=4 is less than the 5 processes"):
        check_share(Ranks(0, 5), 4)


def start(command: list[str], folder: Path) -> None:
    folder.mkdir()
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=clean | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "algorithm", ["protonet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("maml", "reptile"))]
)
def test_two_processes_train_as_one_does(algorithm: str, tmp_path: Path) -> None:
    """Reptile: it hands second moments, which each process has its part of, from outer step to outer step."""
    # SGD: some parameters have no gradient but rounding errors (the bias of ProtoNet's embedding). These differ from machine to machine, and
    # Adam makes whole steps of them. Without normalisation: its running statistics are means over unequal shares.
    train = ["metalearn", "train", f"algorithm={algorithm}", *TINY, "backbone.norm=none"]
    train += ["train.optimizer=sgd", "train.lr=0.1", "hydra.run.dir=run"]
    if algorithm == "protonet":  # which trains on 20 ways
        train.append("task.train.ways=5")
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    start(train, tmp_path / "one")
    start([*torchrun, *train], tmp_path / "two")
    runs = [tmp_path / name / "run" for name in ("one", "two")]
    assert sorted(file.name for file in runs[0].iterdir() if "tfevents" not in file.name) == sorted(
        file.name for file in runs[1].iterdir() if "tfevents" not in file.name
    )
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["run"], "the second process writes nothing"
    states = [torch.load(run / "last.pt", weights_only=True)["model"] for run in runs]
    for state in states:
        if "moment_sum" in state:  # each process has a part of the tasks that it is the sum over
            state["moment_sum"] /= state.pop("moment_tasks")
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=2e-5, rtol=1e-3, msg=f"{name} differs")
    rows = [read_metrics(run / "metrics.csv") for run in runs]
    assert len(rows[0]) == 5, "steps 2, 3, 4 and 6, and the test"
    for one, two in zip(*rows, strict=True):
        assert one.keys() == two.keys()
        for column in one.keys() - {"time/seconds", "time/tasks_per_second"}:
            assert two[column] == pytest.approx(one[column], abs=1e-3), column
    assert yaml.safe_load((runs[1] / "config.yaml").read_text())["train"]["meta_batch_size"] == 5


ABORTING = """
import atexit, os, sys
sys.argv = ["metalearn", "--version"]
from metalearn.cli.main import main
from metalearn.engine import ranks  # a command that trains imports it
atexit.register(os.abort)  # stands in for a thread of torch.distributed that outlives the interpreter
main()
"""


@pytest.mark.thorough
@pytest.mark.parametrize("rank", [0, 1])
def test_a_further_process_leaves_without_the_ending_of_the_interpreter(rank: int) -> None:
    """Where it aborts, torchrun stops the first process, which is testing by then."""
    done = subprocess.run(
        [sys.executable, "-c", ABORTING],
        env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == (-signal.SIGABRT if rank == 0 else 0)
    assert rank == 0 or done.stdout.startswith("metalearn "), "what it printed is not lost"
