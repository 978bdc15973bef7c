"""Runs that are stopped, killed or damaged and go on: with what is computed as if nothing had happened."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metalearn.cli.main import main
from metalearn.engine import gradient as gradient_module
from metalearn.engine import loop as train_module
from metalearn.engine.progress import Outcome
from metalearn.errors import Diverged, Interrupted, UserError
from metalearn.runs import checkpoint, final_test
from metalearn.runs.progress import ProgressFile, reach
from metalearn.runs.run import run
from metalearn.runs.tracking import read_metrics
from tests import killing
from tests.compose import compose

# Checkpoints fall inside windows of the log, and validations between both.
TINY = (
    "dataset.classes=40",
    "dataset.val_classes=8",
    "dataset.test_classes=12",
    "dataset.drawers=12",
    "dataset.size=16",
    "backbone.filters=4",
    "task.queries=3",
    "task.train.ways=5",
    "task.train.queries=3",
    "train.meta_batch_size=2",
    "train.task_chunk=1",
    "train.steps=24",
    "train.log_every=7",
    "train.val_every=10",
    "train.val_tasks=10",
    "train.checkpoint_every=3",
    "eval.tasks=20",
    "eval.pictures=0",
)
CPU = torch.device("cpu")
Act = Callable[[], None]


def metrics(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{tag: cell for tag, cell in row.items() if not tag.startswith("time/")} for row in rows]


def results(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "results.json").read_text())
    return found


def flat(value: Any) -> list[Any]:
    """Every tensor and plain value of a checkpoint, but for seconds and for generators, which nothing here draws from."""
    left_out = ("seconds", "data_seconds", "validation_seconds", "sweep_name", "generators")
    if isinstance(value, dict):
        return [[key, flat(item)] for key, item in value.items() if key not in left_out]
    if isinstance(value, list | tuple):
        return [flat(item) for item in value]
    return [value.tolist(), str(value.dtype)] if isinstance(value, torch.Tensor) else [value]


def assert_equal_runs(run_dir: Path, straight: Path) -> None:
    assert metrics(run_dir) == metrics(straight)
    for name in ("last.pt", "best.pt"):
        ours, theirs = (checkpoint.load(where / name, CPU) for where in (run_dir, straight))
        if name == "best.pt":  # what is beside the model is not gone on from
            ours, theirs = ours["model"], theirs["model"]
        assert flat(ours) == flat(theirs), name
    ours, theirs = (results(where) for where in (run_dir, straight))
    assert ours["status"] == "done"
    assert flat(ours["test"]) == flat(theirs["test"])
    assert ours["val"] == theirs["val"]
    assert ours["train"]["steps"] == theirs["train"]["steps"]
    assert curves(run_dir) == curves(straight)


def curves(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag != "training/tasks_per_second"]
    return {tag: points for tag in tags if (points := [(event.step, event.value) for event in events.Scalars(tag)])}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return compose(*TINY)


@pytest.fixture(scope="module")
def straight(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to; not to be changed."""
    run_dir = tmp_path_factory.mktemp("straight")
    run(config, run_dir)
    return run_dir


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Act], None]:
    """Lets something happen in the middle of an outer step, once; what is asked for again replaces it."""
    real = gradient_module.meta_gradient
    waiting: dict[int, Act] = {}

    def meta_gradient(algorithm: Any, *rest: Any) -> Any:
        act = waiting.pop(algorithm.outer_step + 1, None)
        if act is not None:
            act()
        return real(algorithm, *rest)

    monkeypatch.setattr(gradient_module, "meta_gradient", meta_gradient)

    def ask(step: int, act: Act) -> None:
        waiting.clear()
        waiting[step] = act

    return ask


def send(number: int) -> Act:
    return lambda: os.kill(os.getpid(), number)


def crash() -> None:
    raise RuntimeError("out of luck")


def crashed(config: dict[str, Any], at_step: Callable[[int, Act], None], step: int, name: str = "run") -> Path:
    run_dir = Path(name)
    run_dir.mkdir()
    at_step(step, crash)
    with pytest.raises(RuntimeError, match="out of luck"):
        run(config, run_dir)
    return run_dir


def leaves_with(*argv: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(list(argv))
    assert isinstance(leaving.value.code, int)
    return leaving.value.code


def contents(run_dir: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in run_dir.iterdir()}


# --- killed -----------------------------------------------------------------------------------------------------------

KILLED = {
    "protonet": ("train.early_stop=2",),
    "maml": ("algorithm.inner_steps=2", "algorithm.test_inner_steps=2"),
    "reptile": ("algorithm.test_inner_steps=3", "task.train.shots=2"),
    "mann": ("algorithm.controller_size=8", "algorithm.memory_slots=8", "algorithm.memory_width=4"),
    "matching": ("train.schedule=linear", "train.clip_norm=1"),
    "pretrain": ("task.train.queries=1", "task.train.shots=1"),
}


def kill_and_resume(config: dict[str, Any], straight: Path, run_dir: Path, most: int, rng: random.Random) -> int:
    """Kills at random moments of what is left, at most so often, then lets the run end; how often it was killed."""
    started = time.monotonic()
    assert killing.attempt(config, straight) == 0
    whole = time.monotonic() - started
    run_dir.mkdir()
    kills = 0
    while kills < most:
        code = killing.attempt(config, run_dir, rng.uniform(0.15, 1.0) * whole)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    else:
        assert killing.attempt(config, run_dir) == 0
    assert_equal_runs(run_dir, straight)
    return kills


@pytest.fixture(scope="session")
def server(own_cache: None) -> None:
    killing.start_server()
    killing.attempt({}, Path("nowhere"))  # waits until it has imported everything


@pytest.mark.thorough
@pytest.mark.usefixtures("server")
def test_a_run_killed_at_random_moments_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    (tmp_path / "straight").mkdir()
    kills = kill_and_resume(compose(*TINY), tmp_path / "straight", tmp_path / "killed", 4, random.Random(1))
    assert kills >= 1


@pytest.mark.slow
@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("every", ["3", "0.002min"])
@pytest.mark.parametrize("algorithm", KILLED)
def test_every_algorithm_survives_kills(algorithm: str, every: str, tmp_path: Path) -> None:
    """Run after run, until each of the twelve cells was killed five times; METALEARN_KILLS names a file for the counts."""
    config = compose(
        f"algorithm={algorithm}", *TINY, *KILLED[algorithm], "train.steps=40", f"train.checkpoint_every={every}"
    )
    rng, kills, runs = random.Random(f"{algorithm} {every}"), 0, 0
    while kills < 5:
        (tmp_path / f"straight{runs}").mkdir()
        kills += kill_and_resume(config, tmp_path / f"straight{runs}", tmp_path / f"killed{runs}", 5, rng)
        runs += 1
    if file := os.environ.get("METALEARN_KILLS"):
        with Path(file).open("a") as counts:
            counts.write(f"{algorithm} checkpoint_every={every}: {kills} kills in {runs} runs, all equal\n")


# --- stopped by a signal ----------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130)]
    + [(number, 143) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)],
    ids=lambda value: str(value),
)
def test_a_signal_finishes_the_step_and_says_how_to_go_on(
    number: signal.Signals,
    code: int,
    straight: Path,
    at_step: Callable[[int, Act], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    at_step(11, send(number))
    assert leaves_with("train", *TINY, "hydra.run.dir='my run'") == code
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == handlers
    run_dir = Path("my run")
    found = results(run_dir)
    assert (found["status"], found["error"], found["step"]) == ("interrupted", f"stopped by {number.name}", 11)
    assert checkpoint.load(run_dir / "last.pt", CPU)["step"] == 11
    captured = capsys.readouterr()
    (command,) = [line for line in captured.out.splitlines() if "metalearn train --resume" in line]
    assert command == f"to go on: metalearn train --resume '{run_dir.resolve()}'"
    assert captured.err == ""
    main(["train", "--resume", "my run"])
    assert_equal_runs(run_dir, straight)
    log = (run_dir / "run.log").read_text()
    assert "going on after step 11" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("step", [1, 3, 7, 10, 24])
def test_it_goes_on_from_any_step(
    step: int, config: dict[str, Any], straight: Path, tmp_path: Path, at_step: Callable[[int, Act], None]
) -> None:
    at_step(step, send(signal.SIGTERM))
    with pytest.raises(Interrupted):
        run(config, tmp_path)
    run(config, tmp_path, resume=True)
    assert_equal_runs(tmp_path, straight)


@pytest.mark.thorough
@pytest.mark.parametrize("validation", [1, 2, 3])
def test_a_validation_is_cut_short_and_done_again(
    validation: int, config: dict[str, Any], straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = train_module.evaluate, 0

    def evaluate(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == validation:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
            pytest.fail("the signal was held back")
        return real(*arguments, **more)

    monkeypatch.setattr(train_module, "evaluate", evaluate)
    with pytest.raises(Interrupted):
        run(config, tmp_path)
    state = checkpoint.load(tmp_path / "last.pt", CPU)
    assert (state["step"], state["outcome"]["reported"]) == ((10, 9), (20, 19), (24, 23))[validation - 1]
    run(config, tmp_path, resume=True)
    assert_equal_runs(tmp_path, straight)


def test_a_signal_while_it_is_tested_ends_it_at_once(
    config: dict[str, Any], straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(final_test, "evaluate", lambda *a, **k: send(signal.SIGTERM)())
        with pytest.raises(Interrupted):
            run(config, tmp_path)
    run(config, tmp_path, resume=True)
    assert_equal_runs(tmp_path, straight)


def test_one_killed_between_its_last_row_and_its_results(
    config: dict[str, Any], straight: Path, tmp_path: Path
) -> None:
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    (tmp_path / "results.json").unlink()
    run(config, tmp_path, resume=True)
    assert_equal_runs(tmp_path, straight)


def test_a_second_sigint_leaves_at_once(
    config: dict[str, Any], tmp_path: Path, at_step: Callable[[int, Act], None]
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # a second one of these waits as the first
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        pytest.fail("it did not leave")

    at_step(11, twice)
    with pytest.raises(KeyboardInterrupt) as leaving:
        run(config, tmp_path)
    assert not isinstance(leaving.value, Interrupted)
    assert results(tmp_path)["status"] == "interrupted"
    assert checkpoint.load(tmp_path / "last.pt", CPU)["step"] == 9, "the step was not finished"


# --- going on ---------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_left_alone(straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(straight, tmp_path / "run")
    before = contents(tmp_path / "run")
    main(["train", "--resume", "run"])
    assert capsys.readouterr().out == "'run' is done: nothing is left to do (metalearn eval tests it again)\n"
    assert contents(tmp_path / "run") == before


@pytest.mark.thorough
def test_a_finished_run_goes_on_for_more_steps_where_the_rate_allows_it(tmp_path: Path) -> None:
    constant = compose(*TINY, "train.schedule=constant", "train.steps=20")
    (tmp_path / "short").mkdir()
    run(constant, tmp_path / "short")
    assert leaves_with("train", "--resume", "short", "train.steps=10") == 2
    assert results(Path("short"))["status"] == "done"
    main(["train", "--resume", "short", "train.steps=30", "train.checkpoint_every=10min"])
    longer = constant | {"train": constant["train"] | {"steps": 30}}
    (tmp_path / "long").mkdir()
    run(longer, tmp_path / "long")
    assert (
        metrics(tmp_path / "short")
        == [
            *metrics(tmp_path / "long")[:4],  # 7, 10, 14, 20
            *metrics(tmp_path / "long")[4:],
        ]
    )
    assert yaml.safe_load(Path("short/config.yaml").read_text())["train"]["steps"] == 30


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("seed=1", "'run' has another seed; a run that goes on may change train.steps, "),
        ("train.lr=1 algorithm=matching", "'algorithm=matching': the run's algorithm is what was trained; "),
        ("train.steps=30", "train.steps=30: train.schedule=cosine was laid out for 24 steps; only constant and step"),
        ("train.steps=-1", "train.steps=-1 is not allowed (int >= 0)"),
        (
            "train.checkpoint_every=10m",
            "train.checkpoint_every='10m' is not allowed (int >= 1 or minutes, such as 10min); did you",
        ),
        ("train.stps=30", "no setting 'train.stps'; did you mean 'train.steps'?"),
        ("train.steps=3,4", "'train.steps=3,4': --resume takes one value"),
        ("+train.more=3", "'+train.more=3': --resume changes settings"),
        ("-m", "--resume resumes one run"),
    ],
)
def test_what_may_not_change(
    overrides: str, said: str, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(straight, tmp_path / "run")
    before = contents(tmp_path / "run")
    assert leaves_with("train", "--resume", "run", *overrides.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert contents(tmp_path / "run") == before


def test_what_cannot_be_gone_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    for where, said in (("nowhere", "'nowhere' is no directory"), ("empty", "'empty' has no config.yaml")):
        assert leaves_with("train", "--resume", where) == 2
        assert said in capsys.readouterr().err
    assert leaves_with("eval", "empty", "--resume", "empty") == 2


def test_a_checkpoint_of_another_configuration_is_refused(
    config: dict[str, Any], straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(straight, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    other = yaml.safe_load(Path("run/config.yaml").read_text())
    other["train"]["lr"], other["backbone"]["norm"] = 0.5, "none"
    Path("run/config.yaml").write_text(yaml.safe_dump(other))
    before = contents(tmp_path / "run")
    assert leaves_with("train", "--resume", "run") == 2
    assert "the checkpoint in 'run' has another train.lr, backbone.norm; " in capsys.readouterr().err
    assert contents(tmp_path / "run") == before


def test_a_directory_in_use_is_refused(
    config: dict[str, Any], tmp_path: Path, at_step: Callable[[int, Act], None]
) -> None:
    refused = []

    def second() -> None:
        with pytest.raises(UserError, match="another process is at work in") as error:
            run(config, tmp_path, resume=True)
        refused.append(error)

    at_step(5, second)
    run(config, tmp_path)
    assert refused
    assert results(tmp_path)["status"] == "done"


def test_a_directory_with_another_run_is_refused(config: dict[str, Any], straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight, tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match="holds another run's files already"):
        run(config, tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_without_a_checkpoint_it_starts_anew(
    config: dict[str, Any], straight: Path, tmp_path: Path, at_step: Callable[[int, Act], None]
) -> None:
    late = config | {"train": config["train"] | {"checkpoint_every": 1000}}
    run_dir = crashed(late, at_step, 9)
    assert not (run_dir / "last.pt").exists()
    assert len(metrics(run_dir)) == 1
    run(config, run_dir, resume=True)
    assert_equal_runs(run_dir, straight)
    assert len(list(run_dir.glob("events.out.tfevents.*"))) == 1


def test_the_first_validation_finds_the_training_before_it_saved(
    config: dict[str, Any], straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such label")

    late = config | {"train": config["train"] | {"checkpoint_every": 1000}}
    with monkeypatch.context() as patched:
        patched.setattr(train_module, "evaluate", fail)
        with pytest.raises(RuntimeError, match="no such label"):
            run(late, tmp_path / "new")
    state = checkpoint.load(tmp_path / "new" / "last.pt", CPU)
    assert (state["step"], state["outcome"]["reported"]) == (10, 9)
    run(config, tmp_path / "new", resume=True)
    assert_equal_runs(tmp_path / "new", straight)


def test_the_best_checkpoint_holds_no_optimizer(straight: Path) -> None:
    assert "optimizer" in checkpoint.load(straight / "last.pt", CPU)
    best = checkpoint.load(straight / "best.pt", CPU)
    assert set(best) == {"format", "step", "model", "outcome", "config", "train_classes", "trained_on"}


@pytest.mark.parametrize("validation", [1, 2])
def test_validation_tasks_that_are_not_finite_end_the_run_as_diverged(
    validation: int, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = train_module.evaluate, 0

    def evaluate(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        scores = real(*arguments, **more)
        if calls == validation:
            scores.score[-1, :3] = torch.nan
        return scores

    monkeypatch.setattr(train_module, "evaluate", evaluate)
    with pytest.raises(Diverged, match="3 of 10 validation tasks had outputs that are not finite at step"):
        run(config, tmp_path)
    found = results(tmp_path)
    assert found["status"] == "diverged"
    assert (found["val"] or {}).get("step") == (None, 10)[validation - 1]


def test_test_tasks_that_are_not_finite_fail_the_run(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(straight, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    real = final_test.evaluate

    def lost(*arguments: Any, **more: Any) -> Any:
        scores = real(*arguments, **more)
        scores.score[-1, 0] = torch.nan
        return scores

    monkeypatch.setattr(final_test, "evaluate", lost)
    monkeypatch.setattr("metalearn.runs.evaluation.evaluate", lost)
    assert leaves_with("train", "--resume", "run") == 1
    found = results(Path("run"))
    assert (found["status"], found["test"]) == ("failed", None)
    assert "1 of 20 test tasks are not finite" in found["error"]
    assert leaves_with("eval", "run") == 1
    captured = capsys.readouterr()
    assert "failed: 1 of 20 test tasks are not finite" in captured.err.splitlines()[-1]
    assert "test 5-way" not in captured.out
    (file,) = Path("run").glob("eval-*.json")
    assert (json.loads(file.read_text())["status"], json.loads(file.read_text())["test"]) == ("failed", None)


def test_a_result_that_cannot_be_written_is_printed(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(straight, tmp_path / "run")

    def read_only(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("metalearn.atomic.write", read_only)
    assert leaves_with("eval", "run") == 1
    captured = capsys.readouterr()
    assert "test 5-way 1-shot: " in captured.out
    (line,) = captured.err.splitlines()
    assert line.startswith("run/eval-")
    assert line.endswith(".json cannot be written: Permission denied")


def test_a_further_process_of_torchrun_evaluates_nothing(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(straight, tmp_path / "run")
    before = contents(tmp_path / "run")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    main(["eval", "run"])
    main(["reproduce", "snell2017/omniglot_5w1s", "--run", "run"])
    assert contents(tmp_path / "run") == before
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("keep", ["all", "last", "best", "none"])
def test_which_checkpoints_stay(keep: str, config: dict[str, Any], straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    main(["train", "--resume", "run", f"train.keep={keep}"])
    stay = {"all": {"last", "previous", "best"}, "last": {"last"}, "best": {"best"}, "none": set()}[keep]
    assert {file.stem for file in Path("run").glob("*.pt")} == stay
    assert results(Path("run"))["test"]["accuracy"] == results(straight)["test"]["accuracy"]
    if "last" not in stay:
        before = contents(tmp_path / "run")
        with pytest.raises(
            UserError, match=rf"is done and kept no last.pt \(train.keep={keep}\): it cannot be resumed"
        ):
            run(config, tmp_path / "run", resume=True)
        assert contents(tmp_path / "run") == before


def test_generators_go_on_too(config: dict[str, Any], tmp_path: Path, at_step: Callable[[int, Act], None]) -> None:
    """Nothing here draws from torch's generator in training, but a user's network may."""
    drawn: dict[str, list[float]] = {}

    def draw(name: str) -> Act:
        return lambda: drawn.setdefault(name, []).append(float(torch.rand(())))

    for name in ("straight", "resumed"):
        torch.manual_seed(5)
        at_step(8, draw(name))
        if name == "straight":
            (tmp_path / name).mkdir()
            run(config, tmp_path / name)
        else:
            run_dir = crashed(config, at_step, 8, name)
            torch.manual_seed(6)
            at_step(8, draw(name))
            run(config, run_dir, resume=True)
    assert drawn["straight"] == drawn["resumed"]


def test_the_measured_task_chunk_is_kept(
    tmp_path: Path, at_step: Callable[[int, Act], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose(*TINY, "train.task_chunk=auto", "train.meta_batch_size=4")
    monkeypatch.setattr(train_module, "choose_task_chunk", lambda *_: 3)
    run_dir = crashed(config, at_step, 8)
    monkeypatch.setattr(train_module, "choose_task_chunk", lambda *_: 1)
    assert run(config, run_dir, resume=True)["train"]["task_chunk"] == 3


def test_validations_without_gain_and_times_go_on(
    tmp_path: Path, at_step: Callable[[int, Act], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from metalearn.engine.evaluate import Scores

    config = compose(*TINY, "train.steps=100", "train.early_stop=3", "train.val_every=5")
    script = iter([0.5, 0.6, 0.4, 0.4, 0.4, 0.9])
    monkeypatch.setattr(
        train_module, "evaluate", lambda *a, **k: Scores(torch.full((1, 8), next(script)), [0], torch.zeros(8), {})
    )
    run_dir = crashed(config, at_step, 17)
    seconds = checkpoint.load(run_dir / "last.pt", CPU)["outcome"]["seconds"]
    found = run(config, run_dir, resume=True)
    assert (found["train"]["steps"], found["val"]["step"]) == (25, 10)
    assert found["train"]["seconds"] > seconds > 0
    times = [row["time/seconds"] for row in read_metrics(run_dir / "metrics.csv") if "time/seconds" in row]
    assert times == sorted(times)
    (run_dir / "results.json").unlink()
    assert run(config, run_dir, resume=True)["train"]["steps"] == 25, "it had stopped already"


# --- damaged ----------------------------------------------------------------------------------------------------------


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file: Path) -> None:
    """In the middle of the largest tensor, where zip archives are not looked at."""
    content = bytearray(file.read_bytes())
    weights = checkpoint.load(file, CPU)["model"]
    largest = max(weights.values(), key=lambda tensor: tensor.numel())
    where = content.index(largest.numpy().tobytes())
    content[where + 100] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(
    damage: Callable[[Path], None],
    config: dict[str, Any],
    straight: Path,
    at_step: Callable[[int, Act], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run_dir = crashed(config, at_step, 17)
    assert checkpoint.load(run_dir / "last.pt", CPU)["step"] == 15
    damage(run_dir / "last.pt")
    caplog.set_level("INFO")
    run(config, run_dir, resume=True)
    said = caplog.text
    assert "going on after step 12" in said
    assert ("last.pt is not an intact checkpoint" in said) == (damage is not Path.unlink)
    assert_equal_runs(run_dir, straight)


def test_two_damaged_checkpoints_start_it_anew_and_say_so(
    config: dict[str, Any], straight: Path, at_step: Callable[[int, Act], None], caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = crashed(config, at_step, 17)
    flip_a_bit(run_dir / "last.pt")
    truncate(run_dir / "previous.pt")
    run(config, run_dir, resume=True)
    assert f"no checkpoint in '{run_dir}' is intact: training begins anew, at step 1" in caplog.text
    assert_equal_runs(run_dir, straight)


def test_a_damaged_best_checkpoint_is_replaced_by_a_later_one(
    config: dict[str, Any], at_step: Callable[[int, Act], None], caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = crashed(config, at_step, 17)
    flip_a_bit(run_dir / "best.pt")
    found = run(config, run_dir, resume=True)
    assert "the best validation so far is forgotten" in caplog.text
    assert found["val"]["step"] in (20, 24)
    assert found["test"]["step"] == found["val"]["step"]


@pytest.mark.thorough
@pytest.mark.parametrize("leave", ["", "step,tra", "step,train/loss\n7,1.0\n7,"])
def test_damaged_metrics_do_not_stop_it(
    leave: str, config: dict[str, Any], straight: Path, at_step: Callable[[int, Act], None]
) -> None:
    run_dir = crashed(config, at_step, 17)
    (run_dir / "metrics.csv").write_text(leave)
    run(config, run_dir, resume=True)
    assert metrics(run_dir)[-1]["test/accuracy"] == metrics(straight)[-1]["test/accuracy"]


@pytest.mark.slow
def test_no_single_flipped_bit_goes_unnoticed(straight: Path, tmp_path: Path) -> None:
    """Either the checkpoint is refused, or nothing that it holds has changed."""
    content = (straight / "last.pt").read_bytes()
    expected, rng, refused = flat(checkpoint.load(straight / "last.pt", CPU)), random.Random(0), 0
    for _ in range(2000):
        damaged = bytearray(content)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        (tmp_path / "last.pt").write_bytes(damaged)
        try:
            assert flat(checkpoint.load(tmp_path / "last.pt", CPU)) == expected
        except UserError:
            refused += 1
    assert refused > 500


# --- strangers' data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["eval", "run"], ["train", "--resume", "run"]])
@pytest.mark.parametrize("node", ["algorithm", "backbone", "dataset"])
def test_a_configuration_that_names_a_command_is_refused(
    node: str, command: list[str], straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(straight, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    hostile = yaml.safe_load(Path("run/config.yaml").read_text())
    hostile[node] = {"_target_": "os.system", "command": "touch evil"}
    hostile["names"][node] = "hostile"  # else today's settings would be filled in
    Path("run/config.yaml").write_text(yaml.safe_dump(hostile))
    assert leaves_with(*command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"metalearn: error: {node}._target_=os.system is not allowed")
    assert not Path("evil").exists()


def test_an_override_that_names_a_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert leaves_with("train", "algorithm._target_=os.system", "+algorithm.command=touch evil") == 2
    assert "algorithm._target_=os.system is not allowed" in capsys.readouterr().err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("command", [["eval", "run"], ["train", "--resume", "run"]])
def test_a_configuration_that_asks_for_the_environment_is_refused(
    command: list[str], straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(straight, tmp_path / "run")
    text = Path("run/config.yaml").read_text().replace("precision:", "precision: ${oc.env:HOME}\nold:")
    Path("run/config.yaml").write_text(text)
    assert leaves_with(*command) == 2
    assert "precision is not a value but an interpolation" in capsys.readouterr().err


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("evil",)


def test_a_checkpoint_with_code_in_it_is_not_gone_on_from(
    config: dict[str, Any], straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(straight, tmp_path / "run")
    for name in ("last.pt", "best.pt", "previous.pt"):
        torch.save(checkpoint.load(straight / name, CPU) | {"model": Payload()}, tmp_path / "run" / name)
    assert leaves_with("eval", "run") == 2
    assert "not an intact checkpoint" in capsys.readouterr().err
    run(config, tmp_path / "run", resume=True)  # starts anew
    assert not Path("evil").exists()
    assert_equal_runs(tmp_path / "run", straight)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {}},
        {"optimizer": {}},
        {"outcome": {}},
        {"window": {"steps": [1, 2], "sums": {"loss": 3}, "seconds": 0.0}},
        {"generators": {"cpu": torch.zeros(3)}},
        {"config": {"train": 3}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_strange_checkpoint_ends_in_one_line(
    change: dict[str, Any], straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(straight, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    state = checkpoint.load(straight / "last.pt", CPU)
    checkpoint.save(tmp_path / "run" / "last.pt", state | change)
    assert leaves_with("train", "--resume", "run") in (1, 2)
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err


def test_every_field_of_the_outcome_is_saved(straight: Path) -> None:
    saved = checkpoint.load(straight / "last.pt", CPU)["outcome"]
    assert set(saved) == {entry.name for entry in dataclasses.fields(Outcome)}


def test_a_run_says_every_step_how_far_it_is_also_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, steps, phases = tmp_path / "run", [], []
    config = compose(*TINY)
    passed, tested = ProgressFile.passed, ProgressFile.tested

    def at_a_step(file: ProgressFile, step: int) -> None:
        passed(file, step)
        steps.append(step)
        if step == 10:
            signal.raise_signal(signal.SIGTERM)

    def at_a_task(file: ProgressFile, done: int, tasks: int) -> None:
        tested(file, done, tasks)
        phases.append((reach(run_dir).phase, reach(run_dir).step))

    monkeypatch.setattr(ProgressFile, "passed", at_a_step)
    monkeypatch.setattr(ProgressFile, "tested", at_a_task)
    with pytest.raises(Interrupted):
        run(config, run_dir)
    assert steps == list(range(1, 11))
    run(config, run_dir, resume=True)
    assert steps == list(range(1, 25))
    assert phases[0] == ("test", 24)
    assert not (run_dir / "progress.json").exists()
