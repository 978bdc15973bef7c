"""`metalearn config`: the composition with origins, differences, and the schema of all settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from metalearn.cli.main import main
from metalearn.compose.mistakes import GROUPS
from metalearn.config.files import choice_file, choices
from metalearn.config.limits import allows
from metalearn.config.schema import of_rule, schema
from tests.compose import compose


def holds(node: dict[str, Any], value: Any) -> bool:
    """Whether `value` keeps to a schema of the words that `metalearn config --schema` uses."""
    known = {"anyOf", "enum", "const", "type", "pattern", "minItems", "items", "properties", "additionalProperties"}
    bounds = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}
    assert set(node) <= known | bounds | {"description", "default", "$schema", "title"}, node
    types = {
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, (int, float)) and not isinstance(value, bool),
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "array": isinstance(value, list),
        "object": isinstance(value, dict),
        "null": value is None,
    }
    asked = node.get("type", [])
    if asked and not any(types[one] for one in ([asked] if isinstance(asked, str) else asked)):
        return False
    if types["number"] and not (
        node.get("minimum", value) <= value <= node.get("maximum", value)
        and ("exclusiveMinimum" not in node or value > node["exclusiveMinimum"])
        and ("exclusiveMaximum" not in node or value < node["exclusiveMaximum"])
    ):
        return False
    same = [
        one for one in node.get("enum", [value]) if one == value and isinstance(one, bool) == isinstance(value, bool)
    ]
    if not same or ("const" in node and node["const"] != value):
        return False
    if isinstance(value, str) and "pattern" in node and not re.search(node["pattern"], value):
        return False
    if isinstance(value, list) and (
        len(value) < node.get("minItems", 0) or not all(holds(node.get("items", {}), one) for one in value)
    ):
        return False
    if isinstance(value, dict) and "properties" in node:
        for key, inner in value.items():
            of_key = node["properties"].get(key, node.get("additionalProperties", {}))
            if of_key is False or not holds(of_key, inner):
                return False
    return not node.get("anyOf") or any(holds(one, value) for one in node["anyOf"])


@pytest.mark.parametrize(
    "rule",
    [
        "int >= 1",
        "float > 0 <= 1",
        "null or float > 0",
        "auto or int >= 2",
        "bool",
        "null or bool",
        "1 or 2 or 4",
        "int >= 1 or minutes",
        "list of int >= 0 < 9",
        "null or str",
        "choices",
        "adam or sgd",
        "null or int >= 1 or list of int >= 0",
    ],
)
def test_a_rule_and_its_schema_allow_the_same(rule: str) -> None:
    numbers = [-1, 0, 1, 2, 3, 4, 9, 0.5, 1.5, -0.5]
    others = [True, False, None, "auto", "adam", "10min", "10 min", "", [1], [], [9], ["a"], {"a": {}}]
    for value in [*numbers, *others]:
        if "choices" in rule and isinstance(value, (list, dict)):
            continue  # what stands in it the schema leaves open
        assert holds(of_rule(rule), value) == allows(rule, value), (rule, value)


@pytest.mark.thorough
@pytest.mark.parametrize("experiment", choices("experiment")[::7])
def test_shipped_experiments_keep_to_the_schema(experiment: str) -> None:
    content = yaml.safe_load(choice_file("experiment", experiment).read_text(encoding="utf-8"))
    assert holds(schema(GROUPS), content)


def test_compositions_keep_to_the_schema_and_slips_do_not() -> None:
    whole = schema(GROUPS)
    for overrides in (["algorithm=maml"], ["algorithm=mann", "dataset=cub"], ["dataset=sinusoid"], ["task=varying"]):
        assert holds(whole, compose(*overrides))
    for slip in ({"train": {"lrr": 1}}, {"train": {"lr": -1}}, {"trian": {}}, {"algorithm": {"inner_lr": "fast"}}):
        assert not holds(whole, slip)
    assert holds(whole, {"train": {"lr": 0.1}})
    assert whole["properties"]["train"]["properties"]["steps"]["description"].startswith(
        "outer steps; 0: nothing is trained"
    )
    assert whole["properties"]["train"]["properties"]["steps"]["default"] == 1000


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "--schema"])
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(schema(GROUPS)))


def test_the_configuration_is_yaml_with_origins(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["algorithm=maml", "train.lr=0.1", "device=cpu"]
    main(["config", *overrides])
    text = capsys.readouterr().out
    assert yaml.safe_load(text) == compose(*overrides)
    lines = {line.split(":")[0].strip(): line for line in text.splitlines()}
    assert lines["lr"].endswith("# command line")
    assert lines["meta_batch_size"].endswith("(preferred by algorithm=maml)")
    main(["config", *overrides, "--json"])
    settings = {one["key"]: one for one in json.loads(capsys.readouterr().out)}
    assert settings["train.lr"]["default"] == 0.001


def test_two_compositions_and_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "--diff", "", "train.lr=0.1 seed=3", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows == [
        {"key": "seed", "a": 0, "b": 3, "kind": "seed"},
        {"key": "train.lr", "a": 0.002, "b": 0.1, "kind": "protocol"},
    ]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(compose("seed=5")))
    main(["config", "--diff", str(tmp_path), "seed=5"])
    assert capsys.readouterr().out == "the two configurations are equal\n"
    main(["config", "--diff", str(tmp_path), ""])
    assert capsys.readouterr().out.splitlines()[1].split() == ["seed", "5", "0", "seed"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--schema", "seed=1"], "config takes settings, or --diff A B, or --schema"),
        (["outputs"], "two runs are compared by --diff A B"),
        (["--diff", "nowhere", "seed=1"], "'nowhere' is neither a run directory nor key=value"),
        (["--diff", "seed=-1", ""], "seed=-1 is not allowed"),
        (["train.lr=-1"], "train.lr=-1 is not allowed"),
        (["train.lrr=1"], "no setting 'train.lrr'"),
    ],
)
def test_mistakes(words: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["config", *words])
    assert left.value.code == 2
    assert part in capsys.readouterr().err
