"""`metalearn export`: every algorithm gives the same in every format, files load without metalearn, and what a newcomer does wrong."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import metalearn
from metalearn.algorithms.base import Algorithm
from metalearn.cli.main import main
from metalearn.compose.composer import composer
from metalearn.config.files import target_of
from metalearn.data.base import TrainedOn
from metalearn.data.classes import ClassSplit
from metalearn.data.container import FlatImages
from metalearn.data.images import ImageClasses
from metalearn.data.own.given import Form, read_queries
from metalearn.engine.able import learners
from metalearn.engine.build import build_algorithm
from metalearn.errors import UserError
from metalearn.kinds import CLASSIFICATION
from metalearn.runs import program_formats, programs
from metalearn.runs.classifier import Classifier, adapted_to
from metalearn.runs.export import Source, check_exportable, parts_of
from metalearn.runs.predict import Learned
from metalearn.runs.program_formats import FORMATS
from metalearn.runs.programs import write
from metalearn.tasks import TaskShape
from tests.compose import SMALL, compose
from tests.each import TWO, learners_of_classes
from tests.runs.test_predict import TINY

MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime", "safetensors") if not importlib.util.find_spec(name)]
needs_extra = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra export ({', '.join(MISSING)} missing)")
RANDOM = ("backbone.weights=none", "backbone.size=32")
PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def images_of(easy: ImageClasses, *counts: int, skip: int = 0) -> np.ndarray:
    """So many images of the first classes, class by class, from number `skip` of each on: uint8 [n, 1, 16, 16]."""
    every = easy.images.images.reshape(len(easy.class_names), -1, *easy.input_shape)
    return np.concatenate([every[label, skip : skip + count] for label, count in enumerate(counts)])


@functools.cache
def configs() -> dict[str, dict[str, Any]]:
    """One of each algorithm, composed together: the composer is what takes the time."""
    few = {"bmaml": ["algorithm.particles=2"]}  # each is a network of its own in the program
    with composer() as composing:
        return {
            name: composing.job([f"algorithm={name}", *SMALL, *few.get(name, [])], 0)[0]
            for name in learners(CLASSIFICATION)
        }


_MADE: dict[str, Classifier] = {}


def classifier_of(name: str, easy: ImageClasses) -> Classifier:
    """An untrained algorithm that has learned three classes from 1, 3 and 2 images, evaluated as `predict` does. Tests share it."""
    if name not in _MADE:
        _MADE[name] = new_classifier(configs()[name], easy)
    return _MADE[name]


def new_classifier(config: dict[str, Any], easy: ImageClasses) -> Classifier:
    algorithm = build_algorithm(config, easy)
    if algorithm.transductive:
        with contextlib.suppress(UserError):  # some always are
            algorithm.set_transductive(False)
    else:  # running statistics as after training: those of a new network let next to nothing through
        tasks = easy.source("train", 0, torch.device("cpu")).tasks(0, 2, TaskShape(5, 1, 5))
        for _ in range(30):
            with torch.set_grad_enabled(algorithm.embedding() is None):  # an inner loop needs gradients
                algorithm.train().meta_loss(tasks)
    algorithm.eval()
    form = Form(easy.input_shape, {"mean": [0.4], "std": [0.3]})
    adapted = adapted_to(algorithm, form.values(images_of(easy, 1, 3, 2)), (1, 3, 2))
    trained_on = TrainedOn(easy.input_shape, 15, form.normalize)
    return Classifier("made", 0, config, trained_on, algorithm, adapted, ("a", "b", "c"), (1, 3, 2), form)


def source_of(classifier: Classifier) -> Source:
    return Source(None, Learned(classifier, None, None, ()), {})


def onnx_probabilities(file: Path, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    given: np.ndarray = onnxruntime.InferenceSession(file).run(None, {"images": images})[0]
    return given


@functools.cache
def converted() -> set[str]:
    """Every algorithm, but of those that deploy the adapted network itself in the same way (MAML and its like) only one: the programs are alike."""
    first: dict[object, str] = {}
    for name in learners(CLASSIFICATION):
        module, _, made = target_of("algorithm", name).rpartition(".")
        algorithm = getattr(importlib.import_module(module), made)
        alone = algorithm.deployed is Algorithm.deployed  # its program is traced through its own `predict`
        first.setdefault(name if alone else (algorithm.deployed, algorithm.predict), name)
    return set(first.values())


@needs_extra
@pytest.mark.parametrize("name", learners_of_classes(TWO))
def test_every_algorithm_gives_in_every_format_what_it_predicts_or_is_refused(
    name: str, easy: ImageClasses, tmp_path: Path
) -> None:
    classifier = classifier_of(name, easy)
    if classifier.algorithm.transductive:
        with pytest.raises(UserError, match="predicts images together"):
            check_exportable(classifier.algorithm, with_classes=True)
        return
    parts = parts_of(source_of(classifier), classifier.form)
    embeds = classifier.algorithm.embedding() is not None
    assert [part.name for part in parts] == (["embedding", "classifier"] if embeds else ["classifier"])
    fresh = images_of(easy, 2, 1, 2, skip=8)
    right = classifier.probabilities(fresh).numpy()
    assert np.ptp(right, axis=0).max() > 1e-3, "all images get the same, so that nothing would be compared"
    if name not in converted():
        with torch.no_grad():
            assert parts[-1].module(torch.from_numpy(fresh)).numpy() == pytest.approx(right, abs=1e-5)
        return
    for file in write(parts[-1], torch.from_numpy(images_of(easy, 3, 3, 2, skip=3)), FORMATS, tmp_path):
        assert file.difference is None or file.difference <= 1e-4
    assert onnx_probabilities(tmp_path / "classifier.onnx", fresh) == pytest.approx(right, abs=1e-4)
    program = torch.export.load(tmp_path / "classifier.pt2").module()
    assert program(torch.from_numpy(fresh)).detach().numpy() == pytest.approx(right, abs=1e-4)


@pytest.mark.thorough
@needs_extra
def test_a_library_s_network_takes_images_of_any_shape_in_every_format(tmp_path: Path) -> None:
    """Resizing, which such a network does itself, is part of the program: also of images that are wider than high, and grey."""
    shape, rng = (1, 12, 20), np.random.default_rng(0)
    patterns = rng.integers(0, 256, (24, 1, *shape))
    images = ((3 * patterns + rng.integers(0, 256, (24, 8, *shape))) // 4).astype(np.uint8)
    names = tuple(f"class{i}" for i in range(24))
    split = ClassSplit("fixed", {"train": names[:8], "val": names[8:16], "test": names[16:]})
    wide = ImageClasses("wide", FlatImages.of_classes(images), names, split, {"train": 1, "val": 1, "test": 1})
    config = compose(
        "algorithm=nearest_centroid", "backbone=torchvision", "backbone.name=squeezenet1_1", *RANDOM, "task.queries=3"
    )
    torch.manual_seed(0)
    algorithm = build_algorithm(config, wide).eval()
    form = Form(shape, None)
    adapted = adapted_to(
        algorithm, form.values(np.concatenate([images[0, :1], images[1, :3], images[2, :2]])), (1, 3, 2)
    )
    made = Classifier(
        "made", 0, config, TrainedOn(shape, 8, None), algorithm, adapted, ("a", "b", "c"), (1, 3, 2), form
    )
    part = parts_of(source_of(made), form)[-1]
    write(part, torch.from_numpy(images[:3, 3:6].reshape(-1, *shape)), FORMATS, tmp_path)
    fresh = images[:3, 6:].reshape(-1, *shape)
    right = made.probabilities(fresh).numpy()
    assert np.ptp(right, axis=0).max() > 1e-3
    assert onnx_probabilities(tmp_path / "classifier.onnx", fresh) == pytest.approx(right, abs=1e-4)
    program = torch.export.load(tmp_path / "classifier.pt2").module()
    assert program(torch.from_numpy(fresh)).detach().numpy() == pytest.approx(right, abs=1e-4)


def test_one_that_learns_weights_says_that_it_needs_classes(easy: ImageClasses) -> None:
    for config in configs().values():
        algorithm = build_algorithm(config, easy).eval()
        if algorithm.transductive:
            with contextlib.suppress(UserError):
                algorithm.set_transductive(False)
        if algorithm.transductive:
            continue
        if algorithm.embedding() is None:
            with pytest.raises(UserError, match="Give --support DIR"):
                check_exportable(algorithm, with_classes=False)
        else:
            check_exportable(algorithm, with_classes=False)
        check_exportable(algorithm, with_classes=True)


def test_what_only_training_uses_is_left_out(easy: ImageClasses, tmp_path: Path) -> None:
    classifier = classifier_of("pretrain", easy)
    part = parts_of(source_of(classifier), classifier.form)[1]
    program = programs.traced(part, torch.from_numpy(images_of(easy, 1, 1)))
    names = set(program.state_dict)
    assert not any("classifier" in name or "num_batches" in name for name in names)
    assert {name for name in names if "adapted" in name}


def test_a_model_that_predicts_images_together_is_refused(easy: ImageClasses) -> None:
    algorithm = build_algorithm(compose("algorithm=protonet", "backbone.running_stats=false", *SMALL), easy).eval()
    with pytest.raises(UserError, match="predicts images together"):
        check_exportable(algorithm, with_classes=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    main(["train", "algorithm=protonet", *TINY, f"hydra.run.dir={run_dir}"])
    return run_dir


@pytest.fixture
def here(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `run`, and drawings of odd sizes, dark on light: `support`, of unequal classes, and `query`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "run")
    rng = np.random.default_rng(0)
    for label, (name, count) in enumerate({"left": 1, "middle": 3, "right": 2}.items()):
        for i in range(count + 2):
            height, width = (int(side) for side in rng.integers(30, 60, 2))
            pixels = np.full((height, width), 255, np.uint8)
            column = 2 + label * width // 3 + int(rng.integers(0, 3))
            pixels[4 : height - 4, column : column + 4] = 0
            folder = tmp_path / ("support" if i < count else "query") / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path


def exported(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    main(["export", *words, "--json"])
    out = capsys.readouterr().out
    record: dict[str, Any] = json.loads(out[out.index("{\n") :])
    return record


def query_pixels(record: dict[str, Any]) -> np.ndarray:
    """The images in `query` as `metalearn predict` reads them."""
    before = record["images"]["before_program"]
    form = Form(tuple(record["images"]["in_program"]["shape"]), None, **before)
    return np.stack([query.pixels for query in read_queries(["query"], form) if query.pixels is not None])


@pytest.mark.thorough
@needs_extra
def test_the_program_gives_what_predict_says_with_its_temperature(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = exported(capsys, "run", "--support", "support", "--tasks", "10", "--out", "out")
    assert sorted(path.name for path in (here / "out").iterdir()) == [
        "MODEL_CARD.md",
        *(f"{part}.{kind}" for part in ("classifier", "embedding") for kind in ("onnx", "pt2", "safetensors")),
        "export.json",
    ]
    assert json.loads((here / "out" / "export.json").read_text()) == record
    assert record["classes"] == {"left": 1, "middle": 3, "right": 2}
    assert record["calibration"]["temperature"] != 1
    assert {file["check"]["largest_difference"] <= 1e-4 for file in record["files"] if "check" in file} == {True}
    found = metalearn.predict("run", "support", "query", tasks=10)
    right = [[one["probabilities"][name] for name in record["classes"]] for one in found["predictions"]]
    pixels = query_pixels(record)
    assert onnx_probabilities(here / "out" / "classifier.onnx", pixels) == pytest.approx(np.array(right), abs=1e-5)
    program = torch.export.load(here / "out" / "classifier.pt2").module()
    assert program(torch.from_numpy(pixels)).detach().numpy() == pytest.approx(np.array(right), abs=1e-5)
    plain = metalearn.predict("run", "support", "query", calibrated=False)
    first = plain["predictions"][0]["probabilities"]
    assert [first[name] for name in record["classes"]] != pytest.approx(right[0], abs=1e-5)


@pytest.mark.thorough
@needs_extra
def test_a_saved_classifier_is_exported_with_and_without_its_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = metalearn.predict("run", "support", "query", tasks=10, save="mine.pt")
    both = exported(capsys, "run", "--adapted", "mine.pt", "--formats", "safetensors", "--out", "both")
    assert both["test"]["accuracy"] == json.loads((here / "run" / "results.json").read_text())["test"]["accuracy"]
    shutil.rmtree("run")
    shutil.rmtree("support")
    alone = metalearn.export(None, "alone", adapted="mine.pt", formats=["onnx"])
    assert alone["test"] is None
    assert [file["file"] for file in alone["files"]] == ["embedding.onnx", "classifier.onnx"]
    right = [[one["probabilities"][name] for name in alone["classes"]] for one in found["predictions"]]
    given = onnx_probabilities(here / "alone" / "classifier.onnx", query_pixels(alone))
    assert given == pytest.approx(np.array(right), abs=1e-5)


@pytest.mark.thorough
@needs_extra
def test_the_page_and_the_card_load_the_files_without_metalearn(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(capsys, "run", "--support", "support", "--uncalibrated", "--out", "exported")
    card = (here / "exported" / "MODEL_CARD.md").read_text()

    def code(text: str) -> str:
        return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))

    assert len(re.findall("```python", card)) == 6
    script = "\n".join(
        [
            "import sys; sys.modules['metalearn'] = None",
            code(PAGE.read_text(encoding="utf-8")),
            "assert probabilities.shape == (2, 3) and len(labels) == 2 and distance > 0 and weights",
            "import os; os.chdir('exported')",
            code(card),
            "assert probabilities[0].shape == (4, 3)[1:] and vectors.shape[0] == 4",
        ]
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@needs_extra
def test_the_card_says_what_was_measured_and_what_was_seen(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = json.loads((here / "run" / "results.json").read_text())
    results["test"] |= {"ci95_classes": 0.0321, "seen_classes": 3}
    (here / "run" / "results.json").write_text(json.dumps(results))
    record = exported(capsys, "run", "--formats", "safetensors", "--out", "out")
    card = (here / "out" / "MODEL_CARD.md").read_text()
    test = results["test"]
    assert f"{100 * test['accuracy']:.2f} ± {100 * test['ci95']:.2f} %" in card
    assert "± 3.21 % over tasks and classes" in card
    assert "3 TEST CLASSES WERE TRAINING CLASSES" in card
    assert results["split"]["sha256"] in card
    assert f"calibration error {100 * test['calibration']['ece']:.1f} %" in card
    assert len(record["trained_classes"]) == 16
    assert f"`{record['trained_classes'][0]}`" in card


@pytest.mark.thorough
@needs_extra
def test_a_program_that_gives_something_else_is_an_error_and_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
        right = program_formats._read_onnx(path)
        return lambda images: right(images) + 1e-3

    monkeypatch.setitem(program_formats.READERS, "onnx", wrong)
    before = sorted(here.iterdir())
    refused(capsys, "does not give what the model gives", "run", "--formats", "onnx", "--out", "out")
    assert sorted(here.iterdir()) == before
    (here / "out").mkdir()
    refused(capsys, "allowed", "run", "--formats", "onnx", "--out", "out")
    assert not list((here / "out").iterdir())


def refused(capsys: pytest.CaptureFixture[str], message: str, *words: str) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["export", *words])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_without_the_extra_one_line_says_how_to_get_it(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_formats.importlib.util, "find_spec", lambda name: None)
    refused(capsys, "pip install 'metalearn-runner[export]'", "run", "--out", "out")
    assert not (here / "out").exists()
    main(["export", "run", "--formats", "pt2", "--out", "out"])  # needs torch alone
    assert (here / "out" / "embedding.pt2").is_file()


@needs_extra
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "export needs a folder to write"),
        (["--out", "out"], "export needs a run directory"),
        (["run", "other", "--out", "out"], "one word too many"),
        (["run", "--out", "support"], "holds files already"),
        (["run", "--out", "run/config.yaml/new"], "config.yaml' is a file"),
        (["run", "--out", "out", "--formats", "onnx,tflite"], "'tflite' is not allowed"),
        (["run", "--out", "out", "--adapted", "a.pt", "--support", "support"], "only one of"),
        (["run", "--out", "out", "--tasks", "20"], "--tasks goes with --support"),
        (["run", "--out", "out", "device=cuda"], "export works on the CPU"),
        (["--out", "out", "--adapted", "run/best.pt"], "not a classifier that --save wrote"),
        (["support", "--out", "out"], "has no config.yaml"),
        (["run", "--out", "out", "--support", "query/left"], "lie in no class folder"),
    ],
)
def test_what_a_newcomer_does_wrong(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    refused(capsys, message, *words)
    assert not (here / "out").exists()


@needs_extra
def test_a_classifier_of_other_weights_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metalearn.predict("run", "support", "query", calibrated=False, save="mine.pt")
    main(["train", "algorithm=protonet", *TINY, "seed=1", "hydra.run.dir=other"])
    refused(capsys, "made from other weights", "other", "--adapted", "mine.pt", "--out", "out")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("metalearn expo", {"export"}),
        ("metalearn export ru", {"run/"}),
        ("metalearn export run --support su", {"support/"}),
        ("metalearn export run --out ", {"query/", "run/", "support/"}),
        ("metalearn export run eval.checkpo", {"eval.checkpoint="}),
    ],
)
def test_completion(
    here: Path, line: str, expected: set[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    main(["-sc", "query=bash"])
    assert set(capfd.readouterr().out.split()) == expected


@pytest.mark.thorough
def test_predictions_of_any_number_of_images_are_those_of_predict(easy: ImageClasses) -> None:
    """What an algorithm hands over is a plain module: no batch is too small, none changes what is said of another image."""
    for name in learners(CLASSIFICATION):
        classifier = classifier_of(name, easy)
        if classifier.algorithm.transductive:
            continue
        network = classifier.algorithm.deployed(classifier.adapted)
        x = classifier.form.values(images_of(easy, 2, 1, 2, skip=8))
        with torch.no_grad():
            together, alone = network(x), torch.cat([network(one) for one in x.split(1)])
            right = classifier.algorithm.predict(classifier.adapted, x[None])[0]
        assert torch.allclose(together, right, atol=1e-4, rtol=1e-4), name
        assert torch.allclose(together, alone, atol=1e-4, rtol=1e-4), name
