"""The command line from outside: wording and exit codes of every mistake, run directories, eval, completion."""

from __future__ import annotations

import copy
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from metalearn import __version__
from metalearn.cli import main as cli
from metalearn.cli.main import COMMANDS, main
from metalearn.config.files import choices
from metalearn.errors import UserError
from metalearn.runs.directory import make_directory

QUIET = "hydra/job_logging=disabled"
Calls = list[tuple[dict[str, Any], Path]]


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "argv", ["metalearn"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    return cwd


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Replaces training: what each run was given. Seed 13 fails as a run does, 14 exits, 15 is interrupted."""
    calls: Calls = []

    def preflight(config: dict[str, Any]) -> None:
        if config["seed"] == 99:
            raise UserError("99 is too large")

    def run(config: dict[str, Any], run_dir: Path) -> dict[str, Any]:
        calls.append((config, run_dir))
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
        if config["seed"] == 12:
            raise RuntimeError("before the run could say anything")
        if config["seed"] == 14:
            sys.exit(3)
        if config["seed"] == 15:
            raise KeyboardInterrupt
        status = "failed" if config["seed"] == 13 else "done"
        (run_dir / "results.json").write_text(json.dumps({"status": status}))
        if status == "failed":
            print("the run says what went wrong", file=sys.stderr)
            raise RuntimeError("boom")
        return {}

    for name, function in (("preflight", preflight), ("run", run)):
        stub = ModuleType(f"metalearn.runs.{name}")
        setattr(stub, name, function)
        monkeypatch.setitem(sys.modules, stub.__name__, stub)
    return calls


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces evaluation: the configurations it was given."""
    configs: list[dict[str, Any]] = []

    def evaluate_run(run_dir: Path, config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
        configs.append(config)
        return {}

    stub = ModuleType("metalearn.runs.evaluation")
    stub.evaluate_run = evaluate_run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "metalearn.runs.evaluation", stub)
    return configs


def leaves_with(argv: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert isinstance(caught.value.code, int)
    return caught.value.code


Refused = Callable[[list[str]], str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], empty_directory: Path) -> Refused:
    """Runs a mistaken command: exit code 2, one line on stderr, nothing written; the line without its beginning."""

    def check(argv: list[str]) -> str:
        before = sorted(empty_directory.rglob("*"))
        assert leaves_with(argv) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("metalearn: error: ")
        assert err.count("\n") == 1
        assert sorted(empty_directory.rglob("*")) == before
        return err.removeprefix("metalearn: error: ").rstrip("\n")

    return check


def subprocess_of(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), **environment},
    )


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("trian", "no command named 'trian'; did you mean 'train'?"),
        ("algorithm=maml", "no command named 'algorithm=maml'; did you mean 'metalearn train algorithm=maml'?"),
        ("train algorithm=mamll", "no algorithm named 'mamll'; did you mean 'maml'? (available: "),
        ("train algorithm=", "no algorithm named '' (available: "),
        ("train train.lr.x=1", "no setting 'train.lr.x': 'train.lr' has one value, and no settings below it"),
        ("train dataset.root=photos", "no setting 'dataset.root' here; it belongs to dataset=aircraft and "),
        ("train algorithm=null", "cannot compose algorithm=null: "),
        ("train experiment=nothing", "no experiment named 'nothing'"),
        ("train hydra/launcher=bsic", "no launcher named 'bsic'; did you mean 'basic'?"),
        ("train --config-name trian", "no configuration named 'trian'"),
        ("train task.way=5", "no setting 'task.way'; did you mean 'task.ways'?"),
        ("train task.train.way=5", "no setting 'task.train.way'; did you mean 'task.train.ways'?"),
        ("train algoritm.inner_lr=1", "no setting 'algoritm.inner_lr'; did you mean 'algorithm.inner_lr'?"),
        (
            "train algorithm=maml algorithm.iner_lr=1",
            "no setting 'algorithm.iner_lr'; did you mean 'algorithm.inner_lr'?",
        ),
        (
            "train algorithm=protonet algorithm.inner_lr=1",
            "no setting 'algorithm.inner_lr' here; it belongs to algorithm=",
        ),
        ("train algoritm=maml", "no setting 'algoritm'; did you mean 'algorithm'?"),
        ("train lr=1", "no setting 'lr'; did you mean 'train.lr'?"),
        ("train ~task.way", "no setting 'task.way'; did you mean 'task.ways'?"),
        ("train hydra.run.dr=x", "no setting 'hydra.run.dr'; did you mean 'hydra.run.dir'?"),
        ("train +algorithm=maml", "algorithm is chosen already"),
        ("train +task.ways=5", "Could not append to config. An item is already at 'task.ways'"),
        ("train seed=1,2", "'seed=1,2': several values need -m"),
        ("train seed=range(3)", "'seed=range(3)': several values need -m"),
        ("train -m hydra.job.name=a,b", "'hydra.job.name=a,b': Hydra's own settings take one value"),
        ("train nonsense", "cannot read 'nonsense' as key=value"),
        ("train task.ways=[1", "cannot read 'task.ways=[1' as key=value"),
        ("train task.ways=1", "task.ways=1 is not allowed (int >= 2)"),
        ("train task.ways='5'", "task.ways='5' is not allowed (int >= 2)"),
        ("train train.lr=nan", "train.lr=NaN is not allowed (float > 0)"),
        (
            "train train.lr=0 seed=-1",
            "seed=-1 is not allowed (int >= 0 < 9223372036854775808); train.lr=0 is not allowed (float > 0)",
        ),
        ("train train.schedule=linaer", "train.schedule=linaer is not allowed (constant or cosine or linear or step)"),
        ("train train.optimizer=rmsprop", "train.optimizer=rmsprop is not allowed (adam or adamw or sgd or muon)"),
        ("train train=5", "train=5 is not allowed (a group of settings)"),
        ("train ~train.lr", "train.lr must be set"),
        ("train ~backbone", "names.backbone=null is not allowed (str)"),
        ("train train.lr=???", "train.lr must be set"),
        ("train seed=${nothing}", "seed: Interpolation key 'nothing' not found"),
        ("train --multrun seed=1", "no flag named '--multrun'; did you mean '--multirun'?"),
        ("train --cfg jobs", "argument --cfg/-c: invalid choice: 'jobs'"),
        ("train --cfg job algorithm=mamll", "no algorithm named 'mamll'"),
        ("train --cfg job -m", "only one of"),
        ("train --config-dir nowhere", "--config-dir: 'nowhere' is no directory"),
        ("train --config-dir nowhere --help", "--config-dir: 'nowhere' is no directory"),
        ("train --steps 5", "no flag named '--steps'; did you mean 'train.steps=...'?"),
        ("train --dry-run", "no flag named '--dry-run'; --cfg job shows the configuration and runs nothing"),
        ("train --learning-rate=3", "no flag named '--learning-rate=3'; did you mean 'train.lr=...'?"),
        ("train epochs=3", "no setting 'epochs'; did you mean 'train.steps'?"),
        ("train train.seed=3", "no setting 'train.seed'; did you mean 'seed'?"),
        (
            "train dataset.limits=1",
            "dataset.limits=1 is no setting: a YAML file states the limits of its own settings there",
        ),
        ("train train.learning_rate=3", "no setting 'train.learning_rate'; did you mean 'train.lr'?"),
        (
            "train algorithm=maml algorithm.lr=3",
            "no setting 'algorithm.lr' here; it belongs to algorithm=finetune; did you mean 'algorithm.inner_lr'?",
        ),
        ("train experiment=snell2017/omniglot_5w1s dataset.clases=60", "no setting 'dataset.clases'"),
        ("train backbone.zzz=3", "no setting 'backbone.zzz' (available in backbone: filters, "),
        ("train train.augment.zzz=3", "no setting 'train.augment.zzz' (available in train.augment: "),
        ("train zzz=3", "no setting 'zzz' (available: hydra, seed, "),
        ("train dataset=/path/photos", "'dataset=/path/photos': dataset= takes a name, not a path (available: "),
        ("train dataset=./photos", "'dataset=./photos': dataset= takes a name, not a path (available: "),
        (
            "train train.checkpoint_every=10m",
            "train.checkpoint_every='10m' is not allowed (int >= 1 or minutes, such as 10min)",
        ),
        ("train seed=9223372036854775808", "seed=9223372036854775808 is not allowed (int >= 0 < 9223372036854775808)"),
        ("train eval.seed=99999999999999999999", "eval.seed=99999999999999999999 is not allowed"),
        ("train dataset.seed=99999999999999999999", "dataset.seed=99999999999999999999 is not allowed"),
        ("train sweep.seeds=[99999999999999999999]", "seed=99999999999999999999 is not allowed"),
        # what cannot have an effect
        ("train -m seed=0,1 hydra.run.dir=x", "'hydra.run.dir=x' has no effect on a sweep: a sweep's directory is"),
        ("train hydra/launcher=basic", "'hydra/launcher=basic' has no effect on a single run: a sweep needs -m"),
        ("train hydra.sweep.dir=x", "'hydra.sweep.dir=x' has no effect on a single run: a sweep needs -m"),
        ("train sweep.jobs=4", "'sweep.jobs=4' has no effect on a single run: a sweep needs -m"),
        ("train sweep.retry_failed=true", "'sweep.retry_failed=true' has no effect on a single run"),
        ("train sweep.search.trials=5", "'sweep.search.trials=5' has no effect on a single run"),
        ("train sweep_name=x", "'sweep_name=x' has no effect on a single run: a sweep needs -m"),
        ("train hydra.job.chdir=true", "'hydra.job.chdir=true' has no effect on a single run: of Hydra's settings"),
        ("train -m seed=0,1 sweep.search.trials=5", "'sweep.search.trials=5' has no effect on a sweep: there is no"),
        # the name of a sweep
        ("train -m seed=0,1 sweep_name=", "sweep_name='' is not allowed (the name of a directory"),
        ("train -m seed=0,1 sweep_name=..", "sweep_name='..' is not allowed"),
        ("train -m seed=0,1 sweep_name=/abs", "sweep_name='/abs' is not allowed"),
        ("train -m seed=0,1 sweep_name=a/b", "sweep_name='a/b' is not allowed"),
        ("train -m seed=0,1 sweep_name=null", "sweep_name='None' is not allowed"),
        ("train -m seed=glob(*)", "'seed=glob(*)' matches no choice"),
        (
            "train -m algorithm=maml,protonet algorithm.inner_lr=0.1",
            "no setting 'algorithm.inner_lr' in job algorithm=protonet; it belongs to algorithm=",
        ),
        ("train -m task.ways=5,1", "task.ways=1 is not allowed (int >= 2)"),
        ("train -m algorithm=maml,mamll", "no algorithm named 'mamll'"),
        ("train -m seed=0,1 task.way=5", "no setting 'task.way'"),
        ("train seed=99", "99 is too large"),
        ("train -m seed=0,99", "99 is too large"),
        ("eval", "eval needs a run directory"),
        ("eval nowhere", "'nowhere' is no directory"),
        ("eval nowhere -m", "no flag named '-m'"),
        ("bench taks", "no benchmark named 'taks'; did you mean 'tasks'? (available: tasks, steps, "),
        ("bench accuracy", "bench accuracy needs --run RUN_DIR of finished runs or --train EXPERIMENT"),
        ("bench --rounds 0", "argument --rounds: '0' is not allowed (int >= 1)"),
        ("bench tasks --quik", "no flag named '--quik'; did you mean '--quick'?"),
        ("bench tasks --against nothing.json", "nothing.json cannot be read"),
        ("-sc install=csh", "-sc takes install=SHELL"),
    ],
)
def test_mistake(command: str, line: str, refused: Refused, runs: Calls) -> None:
    assert refused(command.split()).startswith(line)
    assert runs == []


@pytest.mark.parametrize("given", ["photos", "./photos"])
def test_a_folder_in_place_of_a_data_set_is_answered_with_what_to_do(
    given: str, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hint = f"if '{given}' holds images of yours: metalearn data check {given} says how to train on them"
    assert hint not in refused(["train", f"dataset={given}"])
    Path("photos").mkdir()
    assert refused(["train", f"dataset={given}"]).endswith(hint)


@pytest.mark.parametrize(
    "path", ["/x/Bücher/om", "/x/My Data (1)", "/x/it's", "/x/a=b", "/x/[x]", "/x/a#b", "/x/a&b", "/x/{y}"]
)
def test_a_path_that_hydra_refuses_is_shown_as_it_can_be_written(path: str, refused: Refused, runs: Calls) -> None:
    line = refused(["train", "dataset=omniglot", f"dataset.root={path}"])
    said, _, written = line.partition(": a path with such signs needs quotes: ")
    assert said == f"cannot read 'dataset.root={path}' as key=value"
    main(["train", "dataset=omniglot", *shlex.split(written), QUIET])
    assert runs[0][0]["dataset"]["root"] == path


@pytest.mark.parametrize("written", ["~/my data", "'~/my data'"])
def test_home_is_expanded(written: str, runs: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    main(["train", "dataset=omniglot", f"dataset.root={written}", f"hydra.run.dir={written}/run", QUIET] if "'" not in written
         else ["train", "dataset=omniglot", f"dataset.root={written}", "hydra.run.dir='~/my data/run'", QUIET])  # fmt: skip
    assert runs[0][0]["dataset"]["root"] == f"{tmp_path}/my data"
    assert runs[0][1] == tmp_path / "my data" / "run"


FILES = {
    "# @package _global_\nalgorithm: maml\n": "algorithm: maml sets the whole group to a text; a file chooses under defaults: "
    "- override /algorithm: maml",
    "# @package _global_\ntask: 5way_5shot\n": "task: 5way_5shot sets the whole group to a text",
    "# @package _global_\ndefaults:\n  - algorithm: maml\n": "a file of experiment/ chooses 'algorithm: maml' in its defaults: "
    "it must be written - override /algorithm: maml",
    "# @package _global_\ndefaults:\n  - /algorithm: maml\n": "algorithm is chosen already",
    "train:\n  steps: 3\n": "the settings of the experiment's file (train) end up below 'experiment': its first line must be",
}


@pytest.mark.parametrize(("content", "line"), FILES.items())
def test_a_file_that_says_it_the_wrong_way(
    content: str, line: str, tmp_path: Path, refused: Refused, runs: Calls
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(content)
    assert refused(["train", "--config-dir", str(tmp_path), "experiment=mine"]).startswith(line)


def test_a_suggestion_is_never_what_was_written(tmp_path: Path, refused: Refused, runs: Calls) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ntrain: null\n")
    line = refused(["train", "--config-dir", str(tmp_path), "experiment=mine", "train.steps=3"])
    assert "did you mean 'train.steps'" not in line
    line = refused(["train", "experiment=snell2017/omniglot_5w1s", "dataset.classes=60"])
    assert "did you mean 'dataset.classes'" not in line


def test_the_choices_of_a_config_dir_stand_in_the_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "my_own.yaml").write_text("# @package _global_\n")
    main(["train", "--config-dir", str(tmp_path), "--help"])
    assert "my_own" in capsys.readouterr().out


def test_without_stdout_and_stderr() -> None:
    command = f"{sys.executable} -m metalearn train --help <&- >&- 2>&-"
    assert (
        subprocess.run(
            ["bash", "-c", command], env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
        ).returncode
        == 0
    )


def test_bad_yaml_of_the_users_own(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("a: [1\nb: 2\n")
    assert "mine.yaml" in refused(["train", "--config-dir", str(tmp_path), "experiment=mine"])


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["-h"], [], *([name, "-h"] for name in COMMANDS)],
)
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(argv)
    out, err = capsys.readouterr()
    assert "usage: metalearn" in out
    assert err == ""
    assert max(len(line) for line in out.splitlines()) <= 120
    if argv[:1] == ["train"]:
        assert all(word in out for word in ("protonet", "omniglot", "20way_1shot", "conv4", "--config-dir"))
    if argv[:1] == ["reproduce"]:
        assert all(name in out for name in (*choices("experiment"), "--run RUN_DIR"))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"metalearn {__version__}\n"


def test_help_imports_nothing_slow_and_answers_at_once() -> None:
    code = (
        "import sys; from metalearn.cli.main import main; main(['--help'])\n"
        "assert not {'torch', 'hydra', 'omegaconf', 'rich', 'numpy', 'scipy'} & set(sys.modules)"
    )
    seconds = []  # of the processor: other programs on this machine do not count
    for _ in range(3):
        before = os.times()
        assert subprocess_of(code).returncode == 0
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.3


def test_mistakes_are_found_without_torch() -> None:
    code = (
        "import sys; from metalearn.cli.main import main\n"
        "try: main(['train', 'task.ways=1'])\n"
        "except SystemExit: assert 'torch' not in sys.modules"
    )
    assert subprocess_of(code).returncode == 0


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m metalearn train --help | true"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
    )
    assert done.stderr == ""


def test_cfg_shows_the_configuration_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], empty_directory: Path
) -> None:
    main(["train", "--cfg", "job", "task.ways=7"])
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["task"]["ways"] == 7
    assert "${now:" in shown, "interpolations stay as they are written"
    assert "limits" not in shown
    assert list(empty_directory.iterdir()) == []


# --- train ------------------------------------------------------------------------------------------------------------


def test_one_run(runs: Calls, empty_directory: Path) -> None:
    main(["train", "algorithm=maml", "task.ways=7", QUIET])
    (config, run_dir) = runs[0]
    assert run_dir.parent.parent == empty_directory / "outputs"
    assert run_dir.name.endswith("-maml-glyphs-7w1s")
    assert config["task"]["train"]["ways"] == 7
    assert config["names"] == {"algorithm": "maml", "backbone": "conv4", "dataset": "glyphs", "experiment": None}
    assert "hydra" not in config
    assert "limits" not in str(config)


def test_a_task_that_does_not_fit_names_the_settings_and_who_prefers_them(refused: Refused) -> None:
    few = ("algorithm=protonet", "dataset.classes=20", "dataset.val_classes=6", "dataset.test_classes=6")
    said = "glyphs cannot serve the train tasks: task.train.ways=20 (preferred by algorithm=protonet) needs 20 classes"
    assert said in refused(["train", *few])


def test_the_command_line_beats_the_experiment_and_that_the_defaults(runs: Calls, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /algorithm: maml\ntrain:\n  lr: 0.5\n  steps: 7\n"
    )
    main(["train", "experiment=mine", "--config-dir", str(tmp_path), "train.steps=9", QUIET])
    config, _ = runs[0]
    assert (config["train"]["lr"], config["train"]["steps"]) == (0.5, 9)
    assert (config["names"]["algorithm"], config["names"]["experiment"]) == ("maml", "mine")


def test_a_named_directory_is_taken_once(runs: Calls, refused: Refused, empty_directory: Path) -> None:
    named = r"hydra.run.dir='out/a b,c=1\'s'"
    main(["train", named, QUIET])
    assert runs[0][1] == empty_directory / "out/a b,c=1's"
    assert refused(["train", named, QUIET]).endswith("exists already")
    (empty_directory / "empty").mkdir()
    main(["train", "hydra.run.dir=empty", QUIET])
    assert runs[1][1] == empty_directory / "empty"


def test_a_directory_that_cannot_be_made(refused: Refused, runs: Calls, empty_directory: Path) -> None:
    (empty_directory / "file").touch()
    assert "cannot be made" in refused(["train", "hydra.run.dir=file/x", QUIET])


def test_a_default_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    made = [make_directory(tmp_path / "day" / "time", named=False) for _ in range(3)]
    assert [path.name for path in made] == ["time", "time-1", "time-2"]


def test_a_failed_run(runs: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert leaves_with(["train", "seed=13", QUIET]) == 1
    assert capsys.readouterr().err == "the run says what went wrong\n"


def test_a_failure_that_the_run_could_not_report_is_not_swallowed(runs: Calls) -> None:
    with pytest.raises(RuntimeError, match="before the run could say anything"):
        main(["train", "seed=12", QUIET])
    with pytest.raises(RuntimeError, match=r"sys\.exit\(3\)"):
        main(["train", "seed=14", QUIET])


def test_an_interrupted_run(runs: Calls) -> None:
    assert leaves_with(["train", "seed=15", QUIET]) == 130


def test_a_sweep_goes_on_after_a_failure(runs: Calls, empty_directory: Path) -> None:
    assert leaves_with(["train", "seed=13,1", "-m", "algorithm=maml,protonet", "sweep_name=mine", QUIET]) == 1
    assert [(config["seed"], config["names"]["algorithm"]) for config, _ in runs] == [
        (13, "maml"),
        (13, "protonet"),
        (1, "maml"),
        (1, "protonet"),
    ]
    assert {run_dir.resolve().parent for _, run_dir in runs} == {empty_directory / "outputs/multirun/mine"}
    assert [run_dir.name for _, run_dir in runs] == [
        "seed=13-algorithm=maml",
        "seed=13-algorithm=protonet",
        "seed=1-algorithm=maml",
        "seed=1-algorithm=protonet",
    ]


def test_a_sweep_may_come_from_a_file(runs: Calls, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "grid.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 3,4\n"
    )
    main(["train", "experiment=grid", "--config-dir", str(tmp_path), QUIET])
    assert [config["seed"] for config, _ in runs] == [3, 4]


def test_worker_processes_know_the_slug_resolver() -> None:
    code = "import omegaconf, metalearn.cli.application\nassert omegaconf.OmegaConf.create({'a': '${metalearn.slug:x}'}).a == 'x'"
    done = subprocess_of(code)
    assert done.returncode == 0, done.stderr


# --- eval -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_dir(runs: Calls) -> Path:
    main(["train", "algorithm=maml", "hydra.run.dir=done", QUIET])
    return Path("done")


def test_eval_changes_single_settings(run_dir: Path, evaluations: list[dict[str, Any]]) -> None:
    main(["eval", str(run_dir), "task.ways=20", "algorithm.test_inner_steps=7"])
    saved = yaml.safe_load((run_dir / "config.yaml").read_text())
    saved["task"]["ways"] = 20
    saved["algorithm"]["test_inner_steps"] = 7
    assert evaluations == [saved]
    assert saved["task"]["train"]["ways"] == 5


def test_eval_replaces_groups_but_not_what_was_trained_on(run_dir: Path, evaluations: list[dict[str, Any]]) -> None:
    main(["eval", str(run_dir), "dataset=omniglot", "task.shots=2", "task=20way_1shot", "dataset.size=32"])
    config = evaluations[0]
    assert config["task"] == {"ways": 20, "shots": 2, "queries": 15, "train": {"ways": 5, "shots": 1, "queries": 15}}
    assert config["dataset"]["_target_"].startswith("metalearn.data.sets.omniglot.")
    assert config["dataset"]["size"] == 32
    assert config["names"]["dataset"] == "omniglot"
    assert config["train"] == yaml.safe_load((run_dir / "config.yaml").read_text())["train"]


def test_eval_of_a_run_whose_choices_and_settings_are_gone(run_dir: Path, evaluations: list[dict[str, Any]]) -> None:
    saved = yaml.safe_load((run_dir / "config.yaml").read_text())
    saved["names"]["algorithm"] = "gone"
    saved["algorithm"] = {"_target_": "metalearn.gone.Gone", "strength": 3}
    del saved["train"]["max_loss"]
    (run_dir / "config.yaml").write_text(yaml.safe_dump(saved))
    main(["eval", str(run_dir), "algorithm.strength=4"])
    assert evaluations[0]["algorithm"]["strength"] == 4
    assert set(evaluations[0]["algorithm"]) == {"_target_", "strength"}


def test_eval_of_a_run_older_than_some_settings_takes_their_defaults(
    run_dir: Path, evaluations: list[dict[str, Any]]
) -> None:
    saved = yaml.safe_load((run_dir / "config.yaml").read_text())
    older = copy.deepcopy(saved)
    del older["algorithm"]["learn_rates"], older["train"]["lr_final"], older["eval"]["transductive"]
    (run_dir / "config.yaml").write_text(yaml.safe_dump(older))
    main(["eval", str(run_dir)])
    assert evaluations == [saved]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("task.wys=20", "no setting 'task.wys'; did you mean 'task.ways'?"),
        ("task.ways=1", "task.ways=1 is not allowed (int >= 2)"),
        ("algorithm.test_inner_steps=-1", "algorithm.test_inner_steps=-1 is not allowed (int >= 0)"),
        ("task=20way", "no task named '20way'; did you mean"),
        ("task.ways=5,1", "task.ways=1 is not allowed (int >= 2)"),
        ("train.lr=3,4", "'train.lr=3' has no effect on an evaluation (task.*"),
        ("task.ways=5 task.ways=5,20", "task.ways is given twice, once with several values"),
        ("task.ways=interval(5,20)", "'task.ways=interval(5,20)': a sweep takes a list of values"),
        ("done task.ways=5", "a run directory is named twice"),
        ("other/run", "'other/run' is no directory"),
        ("--csv - --json -", "only one of --csv, --json and --html can go to stdout"),
        ("+task.more=1", "'+task.more=1': eval changes settings"),
        ("~task.ways", "'~task.ways': eval changes settings"),
        ("experiment=x", "'experiment=x': the run is trained"),
        ("algorithm=protonet", "'algorithm=protonet': the run's algorithm is what was trained"),
        ("train.lr=3", "'train.lr=3' has no effect on an evaluation (task.*"),
        ("seed=3", "'seed=3' has no effect on an evaluation; did you mean 'eval.seed'?"),
        ("task.train.ways=3", "'task.train.ways=3' has no effect on an evaluation"),
        ("hydra.run.dir=x", "'hydra.run.dir=x' has no effect on an evaluation"),
        ("sweep_name=x", "'sweep_name=x' has no effect on an evaluation"),
        ("task.ways", "cannot read 'task.ways' as key=value"),
    ],
)
def test_eval_mistake(overrides: str, line: str, run_dir: Path, refused: Refused) -> None:
    assert refused(["eval", str(run_dir), *overrides.split()]).startswith(line)


def test_eval_of_a_directory_above_names_the_newest_run(run_dir: Path, refused: Refused) -> None:
    line = refused(["eval", "."])
    assert line == "'.' has no config.yaml; the newest run below it is done"


# --- completion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("metalearn", set(COMMANDS)),
        ("metalearn ", set(COMMANDS)),
        ("metalearn predict ", {"done/"}),
        ("metalearn predict done --support do", {"done/"}),
        ("metalearn tr", {"train"}),
        ("metalearn train algorithm=proton", {"algorithm=protonet"}),
        ("metalearn train algorithm=maml algorithm.inn", {"algorithm.inner_lr=", "algorithm.inner_steps="}),
        ("metalearn train task.wa", {"task.ways="}),
        ("metalearn eval ", {"done/"}),
        ("metalearn eval do", {"done/"}),
        ("metalearn eval done task.wa", {"task.ways="}),
        ("metalearn reproduce short/mann", {"short/mann_omniglot_5w1s"}),
        ("metalearn reproduce short/maml_omniglot_5w1s --run ", {"done/"}),
        ("metalearn reproduce short/maml_omniglot_5w1s --run do", {"done/"}),
        ("metalearn reproduce short/maml_omniglot_5w1s --run done algorithm.inner_l", {"algorithm.inner_lr="}),
        ("metalearn compare ", {"done/"}),
        ("metalearn runs ", {"rm", "mark", "done/"}),
        ("metalearn runs rm d", {"done/"}),
        ("metalearn bench st", {"steps", "start"}),
        ("metalearn data ", {"list", "fetch", "check"}),
        ("metalearn data f", {"fetch"}),
        ("metalearn data fetch omn", {"omniglot"}),
        ("metalearn data check omniglot dataset.split_", {"dataset.split_seed="}),
        ("metalearn data list ", set()),
        ("metalearn doctor ", set()),
        ("metalearn list t", {"tasks"}),
        ("metalearn copy task/5way_1", {"task/5way_1shot"}),
        ("metalearn copy task/5way_1shot do", {"done"}),
        ("metalearn config algorithm=proton", {"algorithm=protonet"}),
        ("metalearn explain train.lr_", {"train.lr_final"}),
        ("metalearn explain train.lr algorithm=proton", {"algorithm=protonet"}),
        ("metalearn nothing x", set()),
        ("metalearn train --mu", set()),
        ("metalearn train 'x task.wa", set()),
    ],
)
def test_completion(
    line: str, expected: set[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("done").mkdir()
    monkeypatch.setenv("COMP_LINE", line)
    main(["-sc", "query=bash"])
    out, err = capfd.readouterr()
    assert set(out.split()) == expected
    assert err == ""


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_completion_installs_itself_for_metalearn(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["-sc", f"install={shell}"])
    assert "metalearn" in capsys.readouterr().out


def test_a_fault_in_the_program_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, empty_directory: Path) -> None:
    def preflight(config: dict[str, Any]) -> None:
        _one, _two = [1, 2, 3]

    stub = ModuleType("metalearn.runs.preflight")
    stub.preflight = preflight  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "metalearn.runs.preflight", stub)
    with pytest.raises(ValueError, match="too many values to unpack"):
        main(["train"])
    assert not list(empty_directory.iterdir())


@pytest.mark.parametrize("by_flag", [True, False])
def test_debugging_shows_the_traceback_of_a_users_mistake(
    by_flag: bool, monkeypatch: pytest.MonkeyPatch, empty_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METALEARN_DEBUG", "0" if by_flag else "1")
    assert leaves_with(["train", "train.steps=-1", *(["--debug"] if by_flag else [])]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("metalearn: error: train.steps=-1 is not allowed")


def test_a_benchmark_beside_learn2learn_says_first_that_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    assert "needs learn2learn" in refused(["bench", "steps", "--quick"])


def test_a_single_run_is_composed_once(runs: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalearn.compose.composer import Composer

    composed: list[list[str]] = []
    compose = Composer.compose

    def counted(self: Composer, overrides: list[str], *args: Any, **options: Any) -> Any:
        composed.append(overrides)
        return compose(self, overrides, *args, **options)

    monkeypatch.setattr(Composer, "compose", counted)
    main(["train", "algorithm=maml", "seed=3"])
    assert composed == [["algorithm=maml", "seed=3"]]
    assert runs[0][0]["names"]["algorithm"] == "maml"


def test_a_choice_that_a_file_leaves_open_must_be_made(
    tmp_path: Path, runs: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep may make it for each job; a single run has to be told."""
    (tmp_path / "open.yaml").write_text("defaults:\n  - train\n  - override algorithm: ???\n")
    where = ["--config-dir", str(tmp_path), "--config-name", "open"]
    with pytest.raises(SystemExit) as left:
        main(["train", *where])
    assert left.value.code == 2
    assert "algorithm" in capsys.readouterr().err
    assert runs == []
    main(["train", *where, "algorithm=maml"])
    assert runs[0][0]["names"]["algorithm"] == "maml"
