"""The structure, read from the imports: which part may use which. docs/architecture.md draws it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import metalearn
from metalearn.config.files import choices

PACKAGE = Path(metalearn.__file__).parent
MODULES = {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in PACKAGE.rglob("*.py")}

# What each part may import of the package's others; every part may import errors.
ENGINE = {
    *(
        "algorithms",
        "backbones",
        "data",
        "nn",
        "config",
        "kinds",
        "places",
        "sizes",
        "tasks",
        "atomic",
        "locks",
        "status",
        "intervals",
    ),
}
RUNS = {"engine", "garbage", "report", "version"} | ENGINE
SWEEPS = {"runs", "compose"} | RUNS
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "locks": set(),
    "atomic": set(),
    "kinds": set(),
    "places": set(),
    "sizes": set(),
    "intervals": set(),
    "tasks": set(),
    "status": set(),
    "version": set(),
    "garbage": set(),
    "config": set(),
    "report": {"kinds", "sizes", "status"},
    "nn": {"kinds"},
    "backbones": {"nn", "places"},
    "data": {"tasks", "kinds", "atomic", "locks", "places", "sizes"},
    "algorithms": {"backbones", "nn", "kinds", "tasks"},
    "compose": {"config"},
    "engine": ENGINE,
    "runs": RUNS,
    "sweeps": SWEEPS,
    "bench": {"runs"} | RUNS,
    "cli": {"bench", "sweeps"} | SWEEPS,
    "__main__": {"cli"},
    "api": SWEEPS | {"sweeps"},
    "testing": ENGINE | {"engine", "compose"},
    "__init__": {"api", "version"},
}
# The rooms of `data`, and which of them each may use; `data` is what lies in none.
DATA_ROOMS = {
    "data.files": set[str](),
    "data.pictures": {"data.files"},
    "data": {"data.files", "data.pictures"},
    "data.own": {"data.files", "data.pictures", "data"},
    "data.sets": {"data.files", "data.pictures", "data", "data.own"},
}
# Libraries that only these may import, wherever in a file.
KEPT_TO = {
    "hydra": {
        "compose",
        "sweeps.ask",
        "sweeps.choices",
        "sweeps.jobs",
        "sweeps.launchers",
        "sweeps.effects",
        "cli.application",
        "cli.arguments",
    },
    "learn2learn": {"nn.l2l"},
    "optuna": {"sweeps.search"},
}


def part(module: str) -> str:
    return module.split(".")[0]


def imports(file: Path) -> set[str]:
    """Dotted names that a file imports of the package, without `metalearn.`, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "metalearn":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metalearn."):
            found.add((node.module or "").removeprefix("metalearn."))
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("metalearn.") for alias in node.names if alias.name.startswith("metalearn.")
            }
    return found


def test_every_part_has_its_rule() -> None:
    assert {part(name) for name in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_uses_only_what_lies_below_it(name: str) -> None:
    own = part(name)
    used = {part(module) for module in imports(MODULES[name])}
    assert used <= MAY_IMPORT[own] | {own, "errors"}


def test_a_room_of_data_uses_only_rooms_below_it() -> None:
    names = {name.removesuffix(".__init__"): file for name, file in MODULES.items()}
    inside = {name for name in names if part(name) == "data" and name not in DATA_ROOMS}
    rooms = {name: name.rpartition(".")[0] for name in inside}
    assert set(rooms.values()) == set(DATA_ROOMS)
    for name, room in rooms.items():
        used = {rooms[other] for other in _modules(imports(names[name]), names, names[name]) & inside}
        assert used <= DATA_ROOMS[room] | {room}, name


def test_no_two_modules_need_each_other() -> None:
    """Imports of the top level and late ones alike; a package's `__init__` stands for the package."""
    names = {name.removesuffix(".__init__"): file for name, file in MODULES.items()}
    needs = {name: _modules(imports(file), names, file) - {name} for name, file in names.items()}
    ordered: list[str] = []
    while remaining := set(needs) - set(ordered):
        free = sorted(name for name in remaining if needs[name] <= set(ordered))
        assert free, f"a circle among {sorted(remaining)}"
        ordered += free


def _modules(imported: set[str], names: dict[str, Path], file: Path) -> set[str]:
    """The modules behind imported names: `from metalearn.runs import checkpoint` needs runs.checkpoint."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metalearn."):
            package = (node.module or "").removeprefix("metalearn.")
            inner = {f"{package}.{alias.name}" for alias in node.names} & set(names)
            found |= inner or {package}
    return (found | (imported - {name.split(".")[0] for name in found})) & set(names)


@pytest.mark.parametrize(("library", "homes"), KEPT_TO.items())
def test_a_library_is_known_in_one_place(library: str, homes: set[str]) -> None:
    for name, file in MODULES.items():
        if name not in homes and part(name) not in homes:
            text = file.read_text(encoding="utf-8")
            assert not re.search(rf"^\s*(import|from) {library}\b", text, re.MULTILINE), name


def test_nothing_outside_names_an_algorithm_or_a_dataset() -> None:
    """The runner works for any; help texts show examples."""
    # Also words for a directory, for what is compared with, for what is written, for numpy.
    names = {*choices("algorithm"), *choices("dataset")} - {"folder", "baseline", "text", "np"}
    for name, file in MODULES.items():
        if part(name) in ("algorithms", "data", "cli", "testing") or name in (
            "engine.host_memory",
            "config.moved",
            "bench.data",
        ):
            continue
        code = ast.parse(file.read_text(encoding="utf-8"))
        texts = {
            node.value for node in ast.walk(code) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        identifiers = {node.id for node in ast.walk(code) if isinstance(node, ast.Name)}
        assert not (texts | identifiers) & names, name


def test_every_configuration_names_something_that_exists_and_every_module_is_named() -> None:
    conf = PACKAGE.parent / "conf"
    named = {
        match
        for group in ("algorithm", "dataset")
        for file in (conf / group).glob("*.yaml")
        for match in re.findall(r"_target_: metalearn\.([\w.]+)\.\w+", file.read_text(encoding="utf-8"))
    }
    assert named <= set(MODULES)
    shared = {
        "algorithms.base",
        "algorithms.inner_loop",
        "algorithms.class_encoder",
        "algorithms.embedding",
        "algorithms.functions",
        "algorithms.transform",
        "algorithms.__init__",
        "data.sets.__init__",
    }
    plugged = {name for name in MODULES if name.startswith(("algorithms.", "data.sets."))} - shared
    assert plugged <= named
