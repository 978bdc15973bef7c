"""dataset=mix: several data sets in one, from what the user writes to the scores of each source."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metalearn.algorithms.base import Algorithm
from metalearn.cli.main import main
from metalearn.compose.composer import composer
from metalearn.config.identity import compared
from metalearn.data.base import Dataset, TrainedOn
from metalearn.data.classes import ClassSplit
from metalearn.data.container import FlatImages
from metalearn.data.fit import fitted
from metalearn.data.images import ImageClasses
from metalearn.data.normalize import Normalize
from metalearn.data.sets.mix import Mix
from metalearn.data.sets.sinusoid import Sinusoid
from metalearn.engine.build import build_algorithm, build_dataset
from metalearn.engine.embedded import embedded_once
from metalearn.engine.evaluate import evaluate
from metalearn.errors import UserError
from metalearn.tasks import TaskShape, VaryingShape
from tests.compose import SMALL, compose
from tests.conftest import easy_classes

CPU = torch.device("cpu")
SHAPE = TaskShape(3, 1, 2)
UNEVEN = VaryingShape("varying", "varying", "varying", 2, 4, 4, 12, 3, 2.0)


def coloured(name: str = "coloured", size: int = 12) -> ImageClasses:
    """Random images in colour, 20 classes of 8."""
    images = np.random.default_rng(3).integers(0, 256, (20, 8, 3, size, size), dtype=np.uint8)
    names = tuple(f"k{number:02d}" for number in range(20))
    split = ClassSplit("own", {"train": names[:8], "val": names[8:14], "test": names[14:]})
    turns = {"train": 1, "val": 1, "test": 1}
    return ImageClasses(name, FlatImages.of_classes(list(images)), names, split, turns)


def mix(**changes: Any) -> Mix:
    sources: dict[str, Dataset] = {"grey": easy_classes(), "coloured": coloured()}
    return Mix(**{"sources": sources, "weights": None, "size": 16, "channels": 1} | changes)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [SHAPE, UNEVEN])
def test_each_task_is_one_of_its_source(channels: int, shape: Any) -> None:
    mixed = mix(channels=channels)
    for split in ("train", "test"):
        source = mixed.source(split, 4, CPU)
        batch = source.tasks(0, 9, shape)
        for task, name in zip(batch.chunks(1), batch.about["source"], strict=True):
            own = mixed.sources[name]
            named = [source.classes[number] for number in task.classes[0].tolist()]
            assert {one.origin for one in named} == {own.name}, "classes keep their origin"
            assert set(named) <= set(own.classes(split))
            assert task.support.x.shape[2:] == (channels, 16, 16)
        if split == "test":
            assert batch.about["source"] == ("coloured", "grey") * 4 + ("coloured",), "equal parts, in turn"
            alone = easy_classes().source("test", 4, CPU).tasks(1, 1, shape)
            ours = batch.chunks(1)[3]
            grey = alone.support.x.expand(-1, -1, channels, -1, -1)
            assert torch.equal(ours.support.x, grey), "task 3 is task 1 of its source"


def test_a_task_is_the_same_wherever_it_is_made() -> None:
    for shape in (SHAPE, UNEVEN):
        whole = mix().source("train", 1, CPU).tasks(2, 6, shape)
        alone = mix().source("train", 1, CPU).tasks(5, 1, shape)
        assert torch.equal(whole.chunks(1)[3].query.x, alone.query.x)
        assert whole.about["source"][3] == alone.about["source"][0]


@pytest.mark.parametrize("shape", [SHAPE, UNEVEN])
def test_tasks_are_the_same_where_images_stay_in_their_files(shape: Any) -> None:
    resident, mapped = mix(), mix().kept_in_file()
    augment = {"translate": 0.2, "flip": 0.5}
    for split, changes in (("train", augment), ("test", None)):
        sources = [dataset.source(split, 2, CPU, changes) for dataset in (resident, mapped)]
        for first in (0, 4, 8, 3):
            one, other = (source.tasks(first, 4, shape) for source in sources)
            assert torch.equal(one.support.x, other.support.x)
            assert torch.equal(one.query.x, other.query.x)
            assert torch.equal(one.classes, other.classes)
            assert one.about == other.about
        assert [source.gathered for source in sources] == [False, True]
        sources[1].close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("metalearn-ahead")]


def test_training_tasks_follow_the_weights() -> None:
    def part(weights: dict[str, float] | None) -> float:
        source = mix(weights=weights).source("train", 0, CPU)
        assert hasattr(source, "place")
        return float(np.mean([source.place(number)[0] for number in range(600)]))  # 1 is grey

    assert part(None) == pytest.approx(0.5, abs=0.08)
    assert part({"coloured": 1.0, "grey": 3.0}) == pytest.approx(0.75, abs=0.08)
    with pytest.raises(UserError, match=r"dataset.weights: they are for grey; the sources are coloured, grey"):
        mix(weights={"grey": 1.0})


def test_the_order_of_sources_means_nothing() -> None:
    one, other = mix(), mix(sources={"coloured": coloured(), "grey": easy_classes()})
    assert one.split == other.split
    assert one.classes("test") == other.classes("test")
    assert torch.equal(
        one.source("train", 0, CPU).tasks(0, 5, SHAPE).query.x, other.source("train", 0, CPU).tasks(0, 5, SHAPE).query.x
    )


def test_images_come_to_one_size_and_number_of_channels() -> None:
    mixed = mix(channels=3, size=8)
    assert mixed.input_shape == mixed.trained_on.shape == (3, 8, 8)
    assert mixed.notes == (
        "images of coloured: 12x12 to 8x8 pixels",
        "images of grey: 16x16 to 8x8 pixels, 1 channel to 3",
    )
    tasks = mixed.source("test", 0, CPU).tasks(0, 2, SHAPE)
    assert torch.equal(tasks.query.x[1, :, 0], tasks.query.x[1, :, 2])
    alone = coloured().source("test", 0, CPU).tasks(0, 1, SHAPE)
    assert torch.equal(tasks.query.x[:1], fitted(alone.query.x, (3, 8, 8)))
    assert mix(sources={"grey": easy_classes()}).notes == ()


def test_all_images_are_normalised_alike() -> None:
    half = Normalize((0.5,), (0.5,))
    with_own = replace(coloured(), normalize=Normalize((0.1, 0.2, 0.3), (1.0, 2.0, 3.0)))
    mixed = mix(sources={"grey": easy_classes(), "coloured": with_own}, normalize=half)
    plain = mix().source("test", 0, CPU).tasks(0, 2, SHAPE).query.x
    torch.testing.assert_close(mixed.source("test", 0, CPU).tasks(0, 2, SHAPE).query.x, plain * 2 - 1)
    assert mixed.trained_on.normalize == {"mean": [0.5], "std": [0.5]}
    with pytest.raises(UserError, match=r"dataset.normalize.mean has 1 value, the images have 3 channels"):
        mix(channels=3, normalize=half)


def test_a_mix_is_brought_to_what_a_model_was_trained_on() -> None:
    trained_on = TrainedOn((3, 10, 10), 50, {"mean": [0.5] * 3, "std": [0.5] * 3})
    brought = mix().brought_to(trained_on)
    assert brought.input_shape == (3, 10, 10)
    x = brought.source("test", 0, CPU).tasks(0, 2, SHAPE).query.x
    torch.testing.assert_close(x, mix(channels=3, size=10).source("test", 0, CPU).tasks(0, 2, SHAPE).query.x * 2 - 1)
    with pytest.raises(UserError, match="mix has square images"):
        mix().brought_to(TrainedOn((1, 8, 9), 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": {"waves": Sinusoid([0.1, 5.0], [0.0, 3.14], [-5.0, 5.0])}}, r"waves has no classes of images"),
        ({"sources": {"one": coloured(), "two": coloured()}, "size": 12, "channels": 3}, ""),
    ],
)
def test_sources_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    if not message:  # the same classes in the same splits leak nothing
        assert len(mix(**changes).classes("train")) == 16
        return
    with pytest.raises(UserError, match=r"^dataset.sources: " + message):
        mix(**changes)


def test_a_training_class_that_another_source_tests_on_is_refused() -> None:
    names = coloured().class_names
    turned_round = ClassSplit("other", {"train": names[14:], "val": names[8:14], "test": names[:8]})
    other = ImageClasses(
        "other", coloured().images, names, turned_round, {"train": 1, "val": 1, "test": 1}, origin="coloured"
    )
    with pytest.raises(
        UserError, match=r"8 training classes of coloured are test classes of other, 'coloured:k00' for"
    ):
        mix(sources={"coloured": coloured(), "other": other})


def test_a_check_names_the_source_at_fault() -> None:
    mix().check("train", SHAPE)
    with pytest.raises(UserError, match=r"^dataset.sources: coloured cannot serve the test tasks: task.ways=7 needs 7"):
        mix().check("test", TaskShape(7, 1, 1))
    with pytest.raises(UserError, match=r"^dataset.sources: coloured cannot serve the train tasks: .*min_ways=9"):
        mix().check("train", UNEVEN._replace(min_ways=9, max_ways=12))


def protonet(dataset: Dataset) -> Algorithm:
    return build_algorithm(compose("algorithm=protonet", *SMALL), dataset)


@pytest.mark.parametrize("shape", [SHAPE, UNEVEN])
def test_examples_that_are_embedded_once_have_the_same_scores(shape: Any) -> None:
    mixed = mix()
    algorithm, source = protonet(mixed).eval(), mixed.source("test", 0, CPU)
    with torch.no_grad():
        learner, embedded = embedded_once(algorithm, source, "memory")
    assert learner is not algorithm
    assert embedded.tasks(0, 1, SHAPE).query.x.dim() == 3
    whole, apart = (evaluate(a, s, shape, 8, 4, stepwise=False) for a, s in ((algorithm, source), (learner, embedded)))
    torch.testing.assert_close(whole.loss, apart.loss, atol=1e-4, rtol=1e-4)
    assert whole.about == apart.about


# From here on: what the user writes.

GLYPHS = "glyphs: {classes: 40, val_classes: 8, test_classes: 12, size: 16, drawers: 8}"


@pytest.fixture
def second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A --config-dir with a second data set, another alphabet of glyphs."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "conf" / "dataset"
    folder.mkdir(parents=True)
    text = "defaults: [glyphs, _self_]\nseed: 1\nclasses: 40\nval_classes: 8\ntest_classes: 12\nsize: 12\ndrawers: 8\n"
    (folder / "runes.yaml").write_text(text)
    return str(tmp_path / "conf")


def test_a_stored_configuration_holds_everything(second: str) -> None:
    with composer(second) as composing:
        config, _ = composing.job(["dataset=mix", f"dataset.sources=[{{{GLYPHS}}}, runes]", "algorithm=maml"], 0)
    assert list(config["dataset"]["sources"]) == ["glyphs", "runes"]
    glyphs, runes = config["dataset"]["sources"].values()
    assert (glyphs["size"], glyphs["seed"], runes["size"], runes["seed"]) == (16, 0, 12, 1)
    assert glyphs["_target_"] == runes["_target_"] == "metalearn.data.sets.glyphs.load"
    assert "limits" not in glyphs
    assert "prefers" not in glyphs
    assert json.loads(json.dumps(config)) == config
    assert compared(config)["dataset.sources.runes.seed"] == 1
    elsewhere = json.loads(json.dumps(config))
    elsewhere["dataset"]["sources"]["runes"]["root"] = "/else/where"
    assert compared(elsewhere) == compared(config), "where files lie is no part of the protocol"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("[glyphs, omniglo]", "dataset.sources: no dataset named 'omniglo'; did you mean 'omniglot'?"),
        ("[glyphs, {glyphs: {seed: 1}}]", "dataset.sources: glyphs stands there twice"),
        ("[mix]", "dataset.sources: mix is made of sources itself"),
        (
            "[{glyphs: {sizes: 20}}]",
            "no setting 'dataset.sources.glyphs.sizes'; did you mean 'dataset.sources.glyphs.size'?",
        ),
        ("[{glyphs: {size: 4}}]", "dataset.sources.glyphs.size=4 is not allowed (int >= 8)"),
        ("glyphs", "dataset.sources=glyphs is not allowed (a list of names"),
        ("[]", "dataset.sources=[] is not allowed"),
        ("[glyphs, 3]", "is not allowed"),
        ("[{omniglot: {split: nobody}}]", "dataset.sources.omniglot.split=nobody is not allowed"),
    ],
)
def test_a_slip_in_the_sources_is_one_line(
    sources: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        main(["train", "dataset=mix", f"dataset.sources={sources}"])
    assert leaving.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_a_source_refuses_names_it(tmp_path: Path) -> None:
    config = compose("dataset=mix", f"dataset.sources=[{{omniglot: {{root: {tmp_path}, download: false}}}}]")
    with pytest.raises(UserError, match=r"^dataset.sources.omniglot: "):
        build_dataset(config)


def test_a_run_on_a_mix(second: str, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["backbone.filters=8", "train.steps=2", "train.val_every=2", "eval.tasks=24", "train.val_tasks=4"]
    sizes = ["task.queries=3", "task.train.ways=5", "task.train.queries=3", "train.meta_batch_size=2"]
    mixed = ["dataset=mix", f"dataset.sources=[{{{GLYPHS}}}, runes]", "dataset.size=16"]
    main(["train", "--config-dir", second, *mixed, *tiny, *sizes, "hydra.run.dir=run"])
    results = json.loads(Path("run/results.json").read_text())
    by_source = results["test"]["groups"]["source"]
    assert {name: group["tasks"] for name, group in by_source.items()} == {"glyphs": 12, "runes": 12}
    mean = results["test"]["mean_of_groups"]["source"]["accuracy"]
    assert mean == pytest.approx(np.mean([group["accuracy"] for group in by_source.values()]))
    assert mean == pytest.approx(results["test"]["accuracy"])
    assert results["notes"] == ["images of runes: 12x12 to 16x16 pixels"]
    assert results["split"]["name"] == "glyphs random-0, runes random-1"
    shown = capsys.readouterr().out
    assert "by source: glyphs " in shown
    assert "images of runes: 12x12 to 16x16 pixels" in shown
    with np.load("run/test_tasks.npz") as tasks:
        assert tasks["about/source"].tolist() == ["glyphs", "runes"] * 12
    # Once more, without the user's file: all that is needed is stored.
    main(["eval", "run", "eval.tasks=24"])
    (again,) = Path("run").glob("eval-*.json")
    assert json.loads(again.read_text())["test"]["accuracy"] == pytest.approx(results["test"]["accuracy"])
    main(["eval", "run", "task=varying", "task.max_ways=6", "dataset.sources.runes.size=16", "eval.tasks=8"])
    uneven = json.loads(max(Path("run").glob("eval-*.json")).read_text())
    assert set(uneven["test"]["groups"]) == {"ways", "shots", "source"}
    assert "notes" not in uneven
    with pytest.raises(SystemExit):
        main(["eval", "run", "dataset.sources.glyphs.size=2"])
    assert "dataset.sources.glyphs.size=2" in capsys.readouterr().err
    main(["eval", "run", f"dataset.sources=[{{{GLYPHS}}}]", "eval.tasks=8"])
    one = json.loads(max(Path("run").glob("eval-*.json")).read_text())
    assert list(one["test"]["groups"]["source"]) == ["glyphs"]
