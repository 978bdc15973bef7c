"""The structure, read from the imports: which module may know which."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import metalearn
from metalearn.config import choices

PACKAGE = Path(metalearn.__file__).parent
MODULES = {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in PACKAGE.rglob("*.py")}

# What each part may import of ours; everything may import errors.
BELOW = {
    "tasks": set(),
    "errors": set(),
    "objective": set(),
    "l2l": set(),
    "layout": set(),
    "task_batched": {"layout", "objective"},
    "hashing": set(),
    "dropblock": {"hashing"},
    "convolution": set(),
    "backbones": {"convolution", "dropblock", "l2l", "layout"},  # l2l: one of them is learn2learn's own network
    "config": set(),
    "data": {"data", "tasks"},
    "algorithms": {"algorithms", "tasks", "objective", "backbones", "hashing", "l2l", "task_batched"},
    "atomic": set(),
    "checkpoint": {"atomic"},
    "interrupts": set(),
    "resume": {"config"},
    "run_dir": {"atomic"},
    "console": set(),
    "tracking": {"run_dir"},
}


def imports(file: Path) -> set[str]:
    """First-level names of ours that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "metalearn":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metalearn."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("metalearn.")}
    return found - {"__version__"}


def test_imports_go_downwards_only() -> None:
    checked = set()
    for name, file in MODULES.items():
        part = name.split(".")[0]
        if part in BELOW:
            checked.add(part)
            assert imports(file) <= BELOW[part] | {"errors"}, name
    assert checked == set(BELOW)


def test_only_the_command_line_knows_hydra_and_only_one_module_learn2learn() -> None:
    for name, file in MODULES.items():
        text = file.read_text()
        if not name.startswith("cli"):
            assert not re.search(r"^\s*(import|from) hydra\b", text, re.MULTILINE), name
        if name != "l2l":
            assert not re.search(r"^\s*(import|from) learn2learn\b", text, re.MULTILINE), name


def test_nothing_outside_names_an_algorithm_or_a_dataset() -> None:
    """The runner works for any; help texts show examples."""
    names = [*choices("algorithm"), *choices("dataset")]
    for name, file in MODULES.items():
        if name.split(".")[0] in ("algorithms", "data", "cli", "host_memory"):
            continue
        code = ast.parse(file.read_text())
        texts = {
            node.value for node in ast.walk(code) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        identifiers = {node.id for node in ast.walk(code) if isinstance(node, ast.Name)}
        assert not (texts | identifiers) & set(names), name


def test_every_configuration_names_something_that_exists_and_every_module_is_named() -> None:
    conf = PACKAGE.parent / "conf"
    named = {
        match
        for group in ("algorithm", "dataset", "backbone")
        for file in (conf / group).glob("*.yaml")
        for match in re.findall(r"_target_: metalearn\.([\w.]+)\.\w+", file.read_text())
    }
    assert named <= set(MODULES)
    algorithms = {name for name in MODULES if name.startswith("algorithms.")} - {
        "algorithms.base",
        "algorithms.inner_loop",
        "algorithms.__init__",
    }
    assert algorithms <= named
