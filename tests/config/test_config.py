"""The limits grammar, the shipped YAML files, and what a configuration may build."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from omegaconf import DictConfig, OmegaConf

from metalearn.compose.composer import composer
from metalearn.config.build import build
from metalearn.config.files import choices, conf_dir, slug
from metalearn.config.identity import config_hash
from metalearn.config.limits import allows, check_limits, rules
from metalearn.config.tree import settings, without_limits
from metalearn.errors import Diverged, UserError

GROUPS = ("algorithm", "backbone", "dataset", "task", "experiment")
CHOICES = [(group, name) for group in GROUPS for name in choices(group)]
# What no rule need bound: a directory's name, and the class that a part is made of (config.build checks it).
EXEMPT = re.compile(r"sweep_name|sweep\.(grid|list|zip)(\..*)?|.*\._target_|backbone\.hidden")


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("int >= 2", 2),
        ("int", -1),
        ("float > 0 <= 1", 1.0),
        ("float > 0 <= 1", 1),
        ("null or float > 0", None),
        ("auto or int >= 1", "auto"),
        ("auto or int >= 1", 3),
        ("1 or 2 or 4", 4),
        ("bool", False),
        ("null or str", "a b"),
        ("list of int >= 1", [1, 2]),
        ("true", True),
        ("int >= 1 or minutes", "10min"),
        ("int >= 1 or minutes", "0.5min"),
        ("int >= 1 or minutes", 10),
    ],
)
def test_rule_allows(rule: str, value: Any) -> None:
    assert allows(rule, value)


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("int >= 2", 1),
        ("int >= 2", 2.0),
        ("int >= 0", True),
        ("int >= 0", "3"),
        ("float > 0", 0),
        ("float > 0 <= 1", 1.5),
        ("float", float("nan")),
        ("float", float("inf")),
        ("float", False),
        ("float", None),
        ("null", "null"),
        ("bool", 1),
        ("1 or 2", True),
        ("1 or 2", "3"),
        ("str", 3),
        ("auto", None),
        ("fp32 or bf16", "FP32"),
        ("list of int >= 1", [1, 0]),
        ("list of int >= 1", []),
        ("list of int >= 1", 1),
        *(
            ("minutes", value)
            for value in (10, "10", "min", "0min", "-1min", "1e3min", "10 min", "10mins", "1h", "nanmin")
        ),
    ],
)
def test_rule_refuses(rule: str, value: Any) -> None:
    assert not allows(rule, value)


@pytest.mark.parametrize(
    "rule", ["int 2", "int >=", "int => 2", "int >= two", "a b", "", "auto or ", "int>=2", "x or list of a b"]
)
def test_a_slip_in_a_rule_shows(rule: str) -> None:
    with pytest.raises(ValueError, match=r"no rule|could not convert"):
        allows(rule, 5)


def test_limits_reports_all_faults_at_once_and_under_their_full_names() -> None:
    cfg = OmegaConf.create(
        {"a": {"n": 0, "b": {"x": "y"}, "limits": {"n": "int >= 1", "b.x": "auto"}}, "limits": {"a.m": "int"}}
    )
    with pytest.raises(UserError) as caught:
        check_limits(cfg)
    faults = ["a.m must be set", "a.n=0 is not allowed (int >= 1)", "a.b.x=y is not allowed (auto)"]
    assert str(caught.value).split("; ") == faults


def test_a_fault_is_reported_where_the_user_made_it() -> None:
    limits = {"ways": "int >= 2", "train_ways": "int >= 2"}
    cfg = OmegaConf.create({"ways": 1, "train_ways": "${ways}", "limits": limits})
    with pytest.raises(UserError, match=r"^ways=1 is not allowed \(int >= 2\)$"):
        check_limits(cfg)
    # Another rule may be stricter than the source's own.
    cfg = OmegaConf.create({"ways": 1, "train_ways": "${ways}", "limits": {"train_ways": "int >= 2"}})
    with pytest.raises(UserError, match=r"^train_ways=1 is not allowed"):
        check_limits(cfg)


def test_missing_values_come_first_also_when_others_refer_to_them() -> None:
    cfg = OmegaConf.create({"a": {"root": "???"}, "b": "${a.root}", "n": 0, "limits": {"n": "int >= 1"}})
    with pytest.raises(UserError, match=r"^a\.root must be set$"):
        check_limits(cfg)


def test_a_value_in_place_of_a_group_is_one_fault() -> None:
    cfg = OmegaConf.create({"train": 5, "limits": {"train.steps": "int", "train.lr": "float"}})
    with pytest.raises(UserError, match=r"^train=5 is not allowed \(a group of settings\)$"):
        check_limits(cfg)


def test_a_star_stands_for_every_key() -> None:
    limits = {"rows.*.n": "int >= 1", "words.*": "str"}
    rows = {"good": {"n": 1}, "low": {"n": 0}, "bare": {}, "flat": 3}
    cfg = OmegaConf.create({"a": {"rows": rows, "words": {}, "limits": limits}})
    with pytest.raises(UserError) as caught:
        check_limits(cfg)
    faults = [
        "a.rows.low.n=0 is not allowed (int >= 1)",
        "a.rows.bare.n must be set",
        "a.rows.flat=3 is not allowed (a group of settings)",
    ]
    assert str(caught.value).split("; ") == faults


def test_what_is_below_a_question_mark_is_looked_at_where_there_is_something() -> None:
    limits = {"a?.b": "int"}
    check_limits(OmegaConf.create({"a": None, "limits": limits}))
    check_limits(OmegaConf.create({"rows": {"one": None, "two": {"b": 1}}, "limits": {"rows.*?.b": "int"}}))
    for node, fault in (({"b": "x"}, "a.b=x is not allowed"), ({}, "a.b must be set"), (3, "a=3 is not allowed")):
        with pytest.raises(UserError, match=f"^{re.escape(fault)}"):
            check_limits(OmegaConf.create({"a": node, "limits": limits}))
    with pytest.raises(UserError, match=r"^a must be set$"):
        check_limits(OmegaConf.create({"limits": limits}))


def test_without_limits_is_plain_and_resolved() -> None:
    cfg = OmegaConf.create({"a": 1, "b": {"c": "${a}", "limits": {"c": "int"}}, "limits": {"a": "int"}})
    assert without_limits(cfg) == {"a": 1, "b": {"c": 1}}


def test_config_hash_depends_on_values_only() -> None:
    assert config_hash({"a": 1, "b": {"c": 2, "d": 3}}) == config_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})
    assert re.fullmatch(r"[0-9a-f]{12}", config_hash({}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "default"),
        ("algorithm=maml", "algorithm=maml"),
        ("algorithm=maml,task=5way_1shot", r"algorithm=maml-task=5way_1shot-[0-9a-f]{6}"),
        ("../../etc", r"etc-[0-9a-f]{6}|-etc-[0-9a-f]{6}"),
        ("x" * 200, r"x{53}-[0-9a-f]{6}"),
        ("übung", r"bung-[0-9a-f]{6}"),
    ],
)
def test_slug(text: str, expected: str) -> None:
    assert re.fullmatch(expected, slug(text))
    assert len(slug(text)) <= 60


def test_slug_keeps_different_texts_apart() -> None:
    assert len({slug(text) for text in ("a,b", "a b", "a-b", "a/b", "x" * 100, "x" * 101)}) == 6


def composed(*overrides: str) -> DictConfig:
    with composer() as composing:
        return composing.compose(list(overrides))


@pytest.mark.thorough
@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_shipped_file_composes_within_its_own_limits(group: str, name: str) -> None:
    with composer() as composing:
        plain, run_dir = composing.job([f"{group}={name}"], 0)
    assert group == "task" or plain["names"][group] == name
    assert run_dir.startswith("outputs/")


@pytest.mark.thorough
# Experiments bring no settings of their own: composing them would have refused one.
@pytest.mark.parametrize(("group", "name"), [choice for choice in CHOICES if choice[0] != "experiment"])
def test_every_setting_has_a_limit(group: str, name: str) -> None:
    plain = OmegaConf.to_container(composed(f"{group}={name}"), resolve=False)
    assert isinstance(plain, dict)
    del plain["hydra"]
    keys, known = set(settings(plain)), list(rules(plain))
    assert {
        key for key in keys if not EXEMPT.fullmatch(key) and not any(pattern.fullmatch(key) for _, pattern in known)
    } == set()
    used = {path for path, pattern in known if any(pattern.fullmatch(key) for key in keys)}
    assert {path for path, _ in known} == used, "a rule is for a setting that is there"


def test_conf_dir_holds_what_is_shipped() -> None:
    assert (conf_dir() / "train.yaml").is_file()
    assert "5way_1shot" in choices("task")


def built(node: dict[str, Any], **changes: Any) -> Any:
    return build(node, "algorithm", **({"made_of": RuntimeError, "within": "metalearn.errors"} | changes))


def test_build_calls_what_is_named() -> None:
    made = built({"_target_": "metalearn.errors.Diverged", "step": 3}, what="the loss was nan")
    assert isinstance(made, Diverged)
    assert made.step == 3


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "torch.nn.Linear",
        "metalearn.cli.main.os.system",
        "metalearn.cli.main.os",
        "metalearn.cli.main.main",
        "metalearn.config.OmegaConf",
        "metalearn.config.importlib.import_module",
        "metalearn.runs.directory.write_text",
        "metalearn.atomic.write",
        "metalearn.__main__.main",
        "metalearn.cli.main.Path",
        "metalearn.errors",
        "metalearn.errors.UserError",
        "metalearn.data",
        "metalearn.data.nowhere.Nothing",
        "metalearn.data.Nothing",
        "metalearn.data.cache.cache_dir",
        "metalearn.data.sets.glyphs.draw",
        "metalearn.data.sets.glyphs.ImageClasses",
        "metalearn.data.classes.SPLITS",
        "metalearn.data.classes.ClassSplit",
        "metalearn.data.base.Dataset",
        "metalearn.database.load",
        "metalearn",
        "metalearn.",
        "",
        ".",
        "..",
        None,
    ],
)
def test_build_refuses_what_is_no_dataset_of_ours(target: str | None, tmp_path: Path) -> None:
    from metalearn.data.base import Dataset

    node = {"_target_": target, "command": f"touch {tmp_path}/evil", "path": tmp_path / "evil", "text": "evil"}
    if target == "metalearn.data.sets.glyphs.ImageClasses":  # merely imported there, and still one
        with pytest.raises(UserError, match="missing a required argument"):
            build(node, "dataset", Dataset, "metalearn.data")
    else:
        with pytest.raises(UserError, match=r"^dataset\._target_="):
            build(node, "dataset", Dataset, "metalearn.data")
    assert not list(tmp_path.iterdir())


def test_build_takes_no_class_of_another_kind_and_no_function_that_returns_another() -> None:
    for target in ("metalearn.errors.UserError", "metalearn.errors.nearest"):
        with pytest.raises(UserError, match=r"is not allowed \(needed: a RuntimeError of metalearn\.errors\)"):
            built({"_target_": target})


def test_build_gives_what_is_optional_only_to_those_who_ask() -> None:
    made = built({"_target_": "metalearn.errors.Diverged", "step": 3}, optional={"what": "the loss was nan", "ways": 5})
    assert (made.step, str(made)) == (
        3,
        str(built({"_target_": "metalearn.errors.Diverged", "step": 3, "what": "the loss was nan"})),
    )


def test_build_names_a_setting_that_the_constructor_does_not_know() -> None:
    with pytest.raises(UserError, match="Diverged: got an unexpected keyword argument 'foo'"):
        built({"_target_": "metalearn.errors.Diverged", "step": 1, "what": "it broke", "foo": 1})


class Wanted(NamedTuple):
    """What several functions take alike."""

    message: str
    times: int = 1


def complaint(wanted: Wanted, mark: str) -> RuntimeError:
    return RuntimeError(mark.join([wanted.message] * wanted.times))


def test_build_puts_together_what_is_one_parameter_of_a_function() -> None:
    def made(**node: Any) -> str:
        return str(build({"_target_": f"{__name__}.complaint", **node}, "made", RuntimeError, __name__))

    assert made(message="no", times=2, mark="!") == "no!no"
    assert made(mark="!", message="no") == "no"
    for node, fault in (
        ({"mark": "!"}, "missing a required argument: 'message'"),
        ({"message": "no"}, "missing a required argument: 'mark'"),
        ({"message": "no", "mark": "!", "foo": 1}, "got an unexpected keyword argument 'foo'"),
        ({"message": "no", "mark": "!", "wanted": Wanted("yes")}, "got an unexpected keyword argument 'wanted'"),
    ):
        with pytest.raises(UserError, match=fault):
            made(**node)


class Complaint(RuntimeError):
    def __init__(self, wanted: Wanted, mark: str) -> None:
        super().__init__(mark.join([wanted.message] * wanted.times))


def test_build_puts_together_what_is_one_parameter_of_a_constructor() -> None:
    node = {"_target_": f"{__name__}.Complaint", "message": "no", "times": 2}
    assert str(build(node, "made", RuntimeError, __name__, {"mark": "!"})) == "no!no"
    with pytest.raises(UserError, match="got an unexpected keyword argument 'foo'"):
        build({**node, "foo": 1}, "made", RuntimeError, __name__, {"mark": "!"})


def test_build_lets_the_constructors_own_complaint_through() -> None:
    with pytest.raises(ValueError, match="'a b' is no rule"):
        built(
            {"_target_": "metalearn.config.limits.allows", "rule": "a b", "value": 1},
            made_of=bool,
            within="metalearn.config",
        )
