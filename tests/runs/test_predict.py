"""`metalearn predict`: every algorithm, classes of unequal size, saved classifiers, sets, and what a newcomer does wrong."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import metalearn
from metalearn.cli.main import main
from metalearn.data.own.given import Form
from metalearn.engine import build as engine_build
from metalearn.engine.build import build_dataset
from metalearn.runs.calibrate import LikeSupport
from metalearn.runs.checkpoint import save
from metalearn.runs.classifier import read_saved
from metalearn.runs.directory import read_config
from metalearn.runs.loaded import load_run
from metalearn.runs.predict import Asked, learn
from metalearn.runs.stored import Unstorable, plain
from metalearn.tasks import TaskShape
from tests.compose import compose, steps_of
from tests.each import TWO, learners_of_classes
from tests.runs.test_older_versions import WRITTEN

TINY = (
    *(
        "dataset.classes=40",
        "dataset.val_classes=12",
        "dataset.test_classes=12",
        "dataset.size=16",
        "dataset.drawers=8",
    ),
    *(
        "backbone.filters=8",
        "train.steps=2",
        "train.meta_batch_size=2",
        "train.val_every=2",
        "eval.tasks=4",
        "eval.pictures=0",
    ),
    *("task.queries=2", "task.train.ways=5", "task.train.shots=1", "task.train.queries=2"),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with drawings, dark on light: `support`, of unequal classes, and `query`."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for label, (name, count) in enumerate({"left": 1, "middle": 3, "right": 2}.items()):
        for i in range(count + 2):
            pixels = np.full((40, 36), 255, np.uint8)
            column = 4 + 11 * label + int(rng.integers(0, 3))
            pixels[6:34, column : column + 4] = 0
            folder = tmp_path / ("support" if i < count else "query") / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    main(["train", "algorithm=protonet", *TINY, f"hydra.run.dir={run_dir}"])
    return run_dir


def test_the_test_of_a_run_says_how_well_it_is_calibrated(trained: Path) -> None:
    test = json.loads((trained / "results.json").read_text())["test"]
    assert set(test["calibration"]) == {"ece", "nll", "brier", "bins"}
    assert test["calibration"]["nll"] == pytest.approx(test["loss"], rel=1e-4)


@pytest.fixture
def run(here: Path, trained: Path) -> Path:
    shutil.copytree(trained, here / "run")
    return here / "run"


def predicted(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    main(["predict", *words, "--json"])
    out = capsys.readouterr().out
    # Behind what the log of this process's training still prints.
    found: dict[str, Any] = json.loads(out[out.index("{\n") :])
    return found


def shipped(name: str) -> dict[str, Any]:
    """The settings of an algorithm."""
    return dict(compose(f"algorithm={name}")["algorithm"])


@pytest.mark.parametrize("name", learners_of_classes(TWO))
def test_every_algorithm_predicts_and_is_kept_in_a_file(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    few = [f"algorithm.{key}=2" for key in ("fit_passes", "test_inner_steps", "steps") if key in shipped(name)]
    main(["train", f"algorithm={name}", *TINY, *few, steps_of(name, "train.steps=2"), "hydra.run.dir=run"])
    words = ["run", "--support", "support", "--query", "query", "--tasks", "10", "--coverage", "0.8"]
    found = predicted(capsys, *words, "--save", "mine.pt")
    assert found["classes"] == {"left": 1, "middle": 3, "right": 2}
    assert "all inverted" not in found["images"]
    assert f"{len(found['predictions']) + 6} of {len(found['predictions']) + 6} inverted" in found["images"]
    for one in found["predictions"]:
        assert sum(one["probabilities"].values()) == pytest.approx(1)
        assert one["label"] == max(one["probabilities"], key=one["probabilities"].__getitem__)
        assert one["label"] == one["set"][0]
    assert found["calibration"]["shots"] == [1, 3, 2]
    assert (found["calibration"]["fitted"], found["calibration"]["tested"]) == (5, 20)
    assert 0 < found["sets"]["measured"] <= 1
    # One image alone gets what it gets among others: nothing about a query depends on the others.
    if not found["transductive"]:
        alone = predicted(capsys, *words[:3], "--query", found["predictions"][0]["image"], "--tasks", "10")
        assert alone["predictions"][0]["probabilities"] == pytest.approx(
            found["predictions"][0]["probabilities"], abs=1e-4
        )
    shutil.rmtree("support")
    shutil.rmtree("run")
    again = predicted(capsys, "--adapted", "mine.pt", "query", "--coverage", "0.8")
    for then, now in zip(found["predictions"], again["predictions"], strict=True):
        assert now["probabilities"] == pytest.approx(then["probabilities"], abs=1e-6)
        assert now["set"] == then["set"]


def test_a_model_without_a_parameter_predicts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [setting for setting in TINY if not setting.startswith(("backbone.", "train.steps"))]
    main(["train", "algorithm=nearest_centroid", "backbone=pixels", *settings, "hydra.run.dir=run"])
    found = predicted(capsys, "run", "--support", "support", "--query", "query", "--tasks", "10")
    assert {one["label"] for one in found["predictions"]} <= {"left", "middle", "right"}


def test_the_function_returns_what_the_command_prints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--support", "support", "--query", "query", "--tasks", "10", "--coverage", "0.9"]
    printed = predicted(capsys, *words)
    assert json.loads(json.dumps(metalearn.predict("run", "support", "query", coverage=0.9, tasks=10))) == printed


def test_each_support_image_is_embedded_once_to_learn_and_to_check_all(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_run(run, read_config(run), json.loads((run / "results.json").read_text()))
    passed: list[int] = []
    loaded.algorithm.backbone.register_forward_hook(lambda _, given, __: passed.append(len(given[0])))
    learned = learn(loaded, "support", Asked(calibrated=False))
    assert sum(passed) == sum(learned.classifier.counts) == 6
    monkeypatch.setattr(loaded.algorithm, "in_two_steps", lambda: None)
    whole = learn(loaded, "support", Asked(calibrated=False))
    assert learned.checked == whole.checked
    assert learned.checked is not None
    assert learned.checked[0] == 5  # one class has one image alone
    torch.testing.assert_close(learned.classifier.adapted, whole.classifier.adapted)


@pytest.mark.parametrize("name", learners_of_classes(TWO))
def test_what_is_adapted_to_embedded_examples_serves_the_whole_algorithm(name: str, trained: Path) -> None:
    config = compose(f"algorithm={name}", *TINY, steps_of(name, "train.steps=2"))
    dataset = build_dataset(config)
    algorithm = engine_build.build_algorithm(config, dataset).eval()
    batch = dataset.source("test", 0, torch.device("cpu")).tasks(0, 1, TaskShape(5, 2, 3))
    with torch.no_grad():
        parts = None if algorithm.transductive else algorithm.in_two_steps()
        if parts is None:
            pytest.skip("no two steps, or queries are predicted together")
        support = batch.support._replace(x=parts.embed(batch.support.x[0])[None])
        outputs = algorithm.predict(parts.learner.adapt(support), batch.query.x)
        torch.testing.assert_close(outputs, algorithm.predict(algorithm.adapt(batch.support), batch.query.x))


def test_a_saved_classifier_is_tensors_and_plain_values(run: Path) -> None:
    main(["predict", "run", "--support", "support", "--save", "mine.pt", "--uncalibrated"])
    torch.load("mine.pt", weights_only=True)
    assert read_saved(Path("mine.pt"))["classes"] == ["left", "middle", "right"]


def test_a_saved_file_names_nothing_that_is_imported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["predict", "run", "--support", "support", "--save", "mine.pt", "--uncalibrated"])
    state = read_saved(Path("mine.pt"))
    for module, name in (("os", "stat_result"), ("metalearn.algorithms.base", "Algorithm")):
        save(Path("bad.pt"), state | {"adapted": {"named": [module, name], "fields": []}})
        with pytest.raises(SystemExit) as left:
            main(["predict", "--adapted", "bad.pt", "query"])
        assert left.value.code == 2
        assert "save the classifier again" in capsys.readouterr().err
    save(Path("bad.pt"), state | {"config": state["config"] | {"names": {"dataset": "${oc.env:HOME}"}}})
    with pytest.raises(SystemExit):
        main(["predict", "--adapted", "bad.pt", "query"])
    assert "interpolation" in capsys.readouterr().err
    class_of_nothing = SimpleNamespace()
    with pytest.raises(Unstorable, match="SimpleNamespace"):
        plain({"a": [class_of_nothing]}, set())


def test_tables_csv_and_pages(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "run", "--support", "support", "--query", "query", "--tasks", "10"]
    main([*words, "--coverage", "0.9", "--abstain-below", "0.999", "--html", "new/pages/page.html"])
    out = capsys.readouterr().out
    assert "temperature" in out
    assert "20 test tasks" in out
    assert "90 % asked for" in out
    assert "of the test queries are answered" in out
    assert "image" in out.splitlines()[-7]
    page = Path("new/pages/page.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 6 + 6
    assert "http" not in page.replace("http-equiv", "")
    main([*words, "--csv", "--coverage", "0.9"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 6
    assert list(rows[0]) == ["image", "label", "probability", "set", "left", "middle", "right"]
    assert float(rows[0][rows[0]["label"]]) == pytest.approx(float(rows[0]["probability"]))
    main([*words, "--csv", "--top", "2"])
    assert (
        capsys.readouterr().out.splitlines()[0] == "image,label,probability,label_1,probability_1,label_2,probability_2"
    )


def test_the_outcome_of_the_calibration_is_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("run", "--support", "support", "--query", "query", "--tasks", "10")
    first = predicted(capsys, *words)
    (kept,) = run.glob("calibration-*.json")
    changed = json.loads(kept.read_text()) | {"temperature": 7.0}
    kept.write_text(json.dumps(changed))
    assert predicted(capsys, *words)["calibration"]["temperature"] == 7.0
    kept.write_text("{")
    assert predicted(capsys, *words)["calibration"] == first["calibration"]
    assert predicted(capsys, *words, "--coverage", "0.123")["sets"]["coverage"] == 0.123


def test_classes_and_images_beyond_the_data_set_are_calibrated_on_what_fits(
    run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(20):
        shutil.copytree("support/middle", f"many/class{number}")
    for extra in range(9):
        shutil.copy("support/middle/0.png", f"many/class0/more{extra}.png")
    found = predicted(capsys, "run", "--support", "many", "--query", "query/left", "--tasks", "10")
    assert len(found["classes"]) == 20
    assert not found["calibration"]["as_asked"]
    assert found["calibration"]["shots"] == [7, *[3] * 11]


def test_tasks_like_the_users_have_the_same_queries_and_fewer_support_examples(run: Path) -> None:
    source = build_dataset(read_config(run)).source("val", 0, torch.device("cpu"))
    shape = TaskShape(3, 3, 2)
    whole = source.tasks(0, 4, shape)
    for takes_uneven in (True, False):
        part = LikeSupport(source, (1, 3, 2), takes_uneven).tasks(0, 4, shape)
        assert torch.equal(part.query.x, whole.query.x)
        rows = [0, 3, 4, 5, 6, 7] if takes_uneven else [0, 0, 0, 3, 4, 5, 6, 7, 6]
        assert torch.equal(part.support.x, whole.support.x[:, rows])
        assert torch.equal(part.support.y, whole.support.y[:, rows])
        assert part.support.counts == ((6,) * 4 if takes_uneven else None)


@pytest.mark.parametrize("name", ["protonet", "maml"])
def test_runs_of_version_0_1_0(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    shutil.copytree(WRITTEN / name, "old")
    found = predicted(capsys, "old", "--support", "support", "--query", "query", "--tasks", "10")
    assert len(found["predictions"]) == 6
    assert found["calibration"]["tested"] == 20


def test_without_its_data_set_a_run_predicts_uncalibrated_and_says_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        for i in range(4):
            pixels = np.random.default_rng(100 * number + i).integers(0, 255, (16, 16), np.uint8)
            folder = here / "photos" / f"class{number}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    own = (
        "dataset=folder",
        "dataset.root=photos",
        "dataset.size=16",
        "dataset.val_classes=3",
        "dataset.test_classes=3",
    )
    tiny = [word for word in TINY if not word.startswith("dataset.") and word != "task.train.ways=5"]
    small = ("task.ways=2", "task.train.ways=2", "task.queries=1", "task.train.queries=1")
    main(["train", "algorithm=protonet", *own, *tiny, *small, "hydra.run.dir=run"])
    words = ("run", "--support", "support", "--query", "query", "--tasks", "10")
    with_data = predicted(capsys, *words)
    assert with_data["calibration"]["dataset"] == "folder"
    assert "no drawings" in with_data["images"]
    shutil.move("photos", "elsewhere")
    engine_build._dataset.cache_clear()  # as in the next process
    found = predicted(capsys, *words)
    assert found["calibration"] is None
    assert any("not calibrated" in note for note in found["notes"])
    with pytest.raises(SystemExit) as left:
        main(["predict", *words, "--coverage", "0.9"])
    assert left.value.code == 2
    assert "--coverage needs" in capsys.readouterr().err
    assert predicted(capsys, *words, "dataset.root=elsewhere")["calibration"]["dataset"] == "folder"


def test_a_checkpoint_from_a_gpu_is_used_on_the_cpu(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("device: auto", "device: cuda"))
    assert "device: cuda" in (run / "config.yaml").read_text()
    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    assert predicted(capsys, "run", "--support", "support", "--query", "query", "--uncalibrated")["predictions"]


def test_mistakes_are_one_line(run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "note.txt").write_text("hello")
    main(
        [
            "train",
            "dataset=sinusoid",
            "task=10shot_regression",
            "algorithm=maml",
            "backbone=mlp",
            "train.steps=1",
            "eval.tasks=2",
            "hydra.run.dir=numbers",
        ]
    )
    for name, text in (("foreign", "model: resnet\n"), ("broken", "a: [1,\n")):
        (here / name).mkdir()
        (here / name / "config.yaml").write_text(text)
    support = ("--support", "support", "--query", "query")
    before = sorted(here.rglob("*"))
    for words, message in (
        ([], "needs a run directory"),
        (["run"], "needs labelled images"),
        (["run", "--support", "support"], "needs something to label"),
        (["nowhere", *support], "is no directory"),
        (["query", *support], "has no config.yaml"),
        (["foreign", *support], "is not the configuration of a run of metalearn"),
        (["broken", *support], "config.yaml cannot be read"),
        (["numbers", *support], "--support support is no file"),
        (["run", "--support", "support", "--query", "note.txt"], "note.txt is not a readable image"),
        (["run", "--support", "support", "--query", "none.png"], "none.png is not there"),
        (["run", *support, "--coverage", "90"], "between 0 and 1"),
        (["run", *support, "--json", "--csv"], "only one of"),
        (["run", *support, "--uncalibrated", "--coverage", "0.9"], "exclude each other"),
        (["run", *support, "--save", "note.txt/mine.pt"], "note.txt' is a file"),
        (["run", *support, "--html", "query"], "--html query is a folder: name a file"),
        (
            ["run", *support, "--save", "run/best.pt"],
            "run/best.pt is a file of the run in 'run': it is not overwritten",
        ),
        (["run", *support, "--html", "run/results.json"], "it is not overwritten"),
        (["run", "--support", "support", "--query", ""], "--query '' is no path"),
        (["run", "--support", "", "--query", "query"], "--support '' is no path"),
        (["run", *support, "algorithm.nothing=1"], "no setting"),
        (["--adapted", "run/best.pt", "query"], "is a checkpoint of a run"),
        (["--adapted", "note.txt", "query"], "note.txt is not an intact"),
        (["--adapted", "run/best.pt", "query", "--support", "support"], "--support goes with a run directory"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["predict", *words])
        assert left.value.code == 2, words
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, words
        assert message in lines[0]
    assert [path for path in sorted(here.rglob("*")) if not path.name.startswith("calibration-")] == before


def test_an_unreadable_image_among_others_costs_only_itself(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("query/left/bad.png").write_text("no image")
    with pytest.raises(SystemExit) as left:
        main(["predict", "run", "--support", "support", "--query", "query", "--uncalibrated", "--json"])
    assert left.value.code == 1
    shown = capsys.readouterr()
    assert "bad.png is not a readable image" in shown.err
    assert len([one for one in json.loads(shown.out)["predictions"] if one["label"]]) == 6


def test_several_channels_are_refused() -> None:
    from metalearn.data.base import TrainedOn
    from metalearn.errors import UserError
    from metalearn.runs.classifier import form_shape

    with pytest.raises(UserError, match="grey or RGB"):
        form_shape(TrainedOn((1,), 0))
    assert Form(form_shape(TrainedOn((3, 8, 8), 0))).shape == (3, 8, 8)
