"""What a choice prefers for settings of other groups, and every pair of an algorithm and a backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra._internal.config_repository import ConfigRepository
from hydra.plugins.config_source import ConfigResult

from metalearn.compose import wishes
from metalearn.compose.composer import composer
from metalearn.compose.mistakes import MISTAKES
from metalearn.compose.wishes import with_origins
from metalearn.config.files import choices
from metalearn.engine.able import learners
from metalearn.engine.build import build_algorithm, build_dataset
from metalearn.errors import UserError
from metalearn.kinds import CLASSIFICATION
from tests.compose import compose


def test_a_wish_replaces_a_default() -> None:
    assert compose("algorithm=maml")["backbone"]["running_stats"] is False
    assert compose("algorithm=matching")["backbone"]["running_stats"] is True
    config = compose("algorithm=protonet", "task=5way_1shot")
    assert (config["task"]["train"]["ways"], config["train"]["steps"]) == (20, 400)


def test_a_wish_is_ignored_where_the_chosen_part_lacks_the_setting() -> None:
    for backbone in ("koch", "pixels"):
        assert "running_stats" not in compose("algorithm=maml", f"backbone={backbone}")["backbone"]


def test_the_command_line_and_an_experiment_win_over_a_wish() -> None:
    assert compose("algorithm=protonet", "task.train.ways=7")["task"]["train"]["ways"] == 7
    assert compose("experiment=snell2017/omniglot_5w1s")["task"]["train"]["ways"] == 60


def test_the_choice_that_is_made_from_another_wins_over_it() -> None:
    assert compose("algorithm=mamlpp")["train"]["meta_batch_size"] == 8
    assert compose("algorithm=fomaml")["train"]["meta_batch_size"] == 16


def test_a_choice_keeps_settings_from_wishes(tmp_path: Path) -> None:
    assert compose("algorithm=mann", "task=varying")["task"]["train"]["queries"] == "varying"
    assert compose("algorithm=protonet", "task=varying", "task.train.ways=7")["task"]["train"]["ways"] == 7
    text = "defaults: [glyphs, _self_]\nkeeps: [dataset.size]\nprefers: {dataset.size: 20, train.steps: 3}\n"
    config = job(tmp_path, *own(tmp_path, "dataset", text))
    assert config["train"]["steps"] == 3
    assert config["dataset"]["size"] == 28
    assert "keeps" not in config["dataset"]


def test_no_configuration_keeps_wishes() -> None:
    with composer() as composing:
        cfg = composing.compose(["algorithm=maml", "dataset=omniglot", "backbone=koch"])
    assert not any("prefers" in node for node in (cfg, cfg.algorithm, cfg.dataset, cfg.backbone))


def own(tmp_path: Path, group: str, text: str) -> list[str]:
    (tmp_path / group).mkdir(exist_ok=True)
    (tmp_path / group / "mine.yaml").write_text(text)
    return [f"{group}=mine"]


def job(tmp_path: Path, *overrides: str) -> dict[str, dict[str, object]]:
    with composer(str(tmp_path)) as composing:
        return composing.job(list(overrides), 0)[0]


def test_an_earlier_group_prefers_settings_of_a_later_one(tmp_path: Path) -> None:
    choice = own(tmp_path, "dataset", "defaults: [glyphs, _self_]\nprefers: {algorithm.inner_lr: 0.25}\n")
    assert job(tmp_path, *choice, "algorithm=maml")["algorithm"]["inner_lr"] == 0.25
    assert "inner_lr" not in job(tmp_path, *choice, "algorithm=protonet")["algorithm"]
    assert job(tmp_path, *choice, "algorithm=maml", "algorithm.inner_lr=1.0")["algorithm"]["inner_lr"] == 1.0


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ("{train.stepps: 3}", r"algorithm=mine prefers train\.stepps: no such setting; did you mean 'train\.steps'\?"),
        ("[train.steps]", "algorithm=mine: prefers is a mapping"),
        ("{train.steps: -1}", r"train\.steps=-1 \(preferred by algorithm=mine\) is not allowed"),
    ],
)
def test_a_wrong_wish_is_named_with_its_origin(tmp_path: Path, wishes: str, message: str) -> None:
    choice = own(tmp_path, "algorithm", f"defaults: [maml, _self_]\nprefers: {wishes}\n")
    with pytest.raises(UserError) as caught:
        job(tmp_path, *choice)
    with pytest.raises(UserError, match=message):
        raise UserError(with_origins(str(caught.value)))


def test_a_value_that_the_user_gave_is_no_wish() -> None:
    compose("algorithm=maml")
    compose("algorithm=maml", "train.meta_batch_size=16")
    assert with_origins("train.meta_batch_size=16 is") == "train.meta_batch_size=16 is"


def test_nor_is_one_that_an_experiment_states(tmp_path: Path) -> None:
    choice = own(tmp_path, "algorithm", "defaults: [maml, _self_]\nprefers: {train.steps: 77}\n")
    outright = own(tmp_path, "experiment", "# @package _global_\ntrain: {steps: 77}\n")
    for _ in range(2):  # from the files, and from what was merged of them before
        with composer(str(tmp_path)) as composing:
            composing.compose(choice)
            assert with_origins("train.steps=77 is") == "train.steps=77 (preferred by algorithm=mine) is"
            composing.compose([*choice, *outright])
            assert with_origins("train.steps=77 is") == "train.steps=77 is"


SMALL_BACKBONES = {
    "resnet12": ["backbone.filters=[8,8,8,8]"],
    "torchvision": ["backbone.weights=none", "backbone.size=32"],
    "timm": ["backbone.weights=none", "backbone.size=32"],
}
SMALL_GLYPHS = ("dataset.classes=70", "dataset.val_classes=2", "dataset.test_classes=4", "dataset.drawers=2")


def complaint(*overrides: str) -> str | None:
    """What the parts of this choice are refused with; None where they are built."""
    try:
        config = compose(*overrides)
        algorithm = build_algorithm(config, build_dataset(config))
    except UserError as error:
        return str(error)
    assert list(algorithm.parameters()) or config["train"]["steps"] == 0
    return None


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", choices("algorithm"))
def test_every_pair_is_built_or_refused_in_one_line(algorithm: str) -> None:
    drawn = SMALL_GLYPHS if algorithm in learners(CLASSIFICATION) else ("dataset=sinusoid",)
    for backbone in choices("backbone"):
        small = SMALL_BACKBONES.get(backbone, [])
        refused = complaint(f"algorithm={algorithm}", f"backbone={backbone}", *drawn, *small)
        if refused is not None:
            assert "\n" not in refused
            assert "backbone" in refused
            assert "argument" not in refused


def test_maml_trains_the_network_of_koch() -> None:
    assert complaint("algorithm=maml", "backbone=koch", "backbone.units=8", "dataset.size=65", *SMALL_GLYPHS) is None


def test_compositions_by_one_composer_are_those_of_a_new_one() -> None:
    asked = [
        ["algorithm=maml"],
        ["algorithm=protonet", "dataset=omniglot"],
        ["experiment=short/maml_omniglot_5w1s"],
        [],
    ]
    with composer() as composing:
        together = [composing.job(overrides, 0)[0] for overrides in [*asked, *asked]]
    assert together == [compose(*overrides) for overrides in [*asked, *asked]]


def test_what_was_merged_before_is_what_the_files_give(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        ["algorithm=maml", "train.lr=0.5", "+train.new=1"],
        ["algorithm=maml"],
        ["algorithm=protonet", "task=5way_1shot", "task.train.ways=7"],
        ["algorithm=protonet", "task=5way_1shot"],
        ["experiment=short/maml_omniglot_5w1s", "seed=3"],
        ["experiment=short/maml_omniglot_5w1s"],
    ]

    def described(overrides: list[str]) -> object:
        with composer() as composing:
            found = composing.described([*overrides, "sweep_name=one"])  # the default is the time
            return found, with_origins("train.steps=400"), with_origins("backbone.running_stats=false")

    for overrides in asked:
        described(overrides)
    remembered = [described(overrides) for overrides in asked]
    for overrides, found in zip(asked, remembered, strict=True):
        monkeypatch.setattr(wishes, "_read_before", {})
        assert described(overrides) == found


def test_a_place_of_files_that_an_override_adds_is_not_kept_for_others(tmp_path: Path) -> None:
    choice = own(tmp_path, "algorithm", "defaults: [maml, _self_]\nprefers: {train.steps: 77}\n")
    there = f"hydra.searchpath=[file://{tmp_path}]"
    with composer() as composing:
        assert composing.compose([*choice, there]).train.steps == 77
        with pytest.raises(MISTAKES):
            composing.compose(choice)
        assert composing.compose([*choice, there]).train.steps == 77


def test_files_are_read_once_in_a_process_and_again_when_one_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load_config = ConfigRepository.load_config

    def counted(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
        read.append(config_path)
        return load_config(repository, config_path)

    monkeypatch.setattr(ConfigRepository, "load_config", counted)
    asked = own(tmp_path, "dataset", "defaults: [glyphs, _self_]\nsize: 20\n")
    assert job(tmp_path, *asked)["dataset"]["size"] == 20
    assert read
    read.clear()
    assert job(tmp_path, *asked)["dataset"]["size"] == 20
    assert not read
    own(tmp_path, "dataset", "defaults: [glyphs, _self_]\nsize: 204\n")
    assert job(tmp_path, *asked)["dataset"]["size"] == 204
