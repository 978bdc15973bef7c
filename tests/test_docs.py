"""What the pages say of the code is true: the table of imports, and every file, class and method that they name."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from metalearn.config.files import choices
from tests.test_structure import MAY_IMPORT, MODULES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_table_of_imports_is_the_one_that_is_tested() -> None:
    table = ARCHITECTURE.partition("<!-- imports:begin -->")[2].partition("<!-- imports:end -->")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| `")]
    written = {cells[0].strip(" `"): set(re.findall(r"`(\w+)`", cells[2])) for cells in rows}
    assert written == {part: allowed - {part} for part, allowed in MAY_IMPORT.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:metalearn|conf|tests|scripts|benchmarks|docs)/[\w./-]*)`", text)
    linked = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    missing = {name for name in named if not (ROOT / name).exists() and not re.search(r"[A-Z]{2}", name)}
    assert not missing | {link for link in linked if not (page.parent / link).exists()}


def _classes() -> dict[str, list[type]]:
    """Every class of the package by its name."""
    found: dict[str, list[type]] = {}
    for name in set(MODULES) - {"__main__"}:
        module = importlib.import_module(f"metalearn.{name}".removesuffix(".__init__"))
        for key, value in vars(module).items():
            if isinstance(value, type) and value.__module__ == module.__name__:
                found.setdefault(key, []).append(value)
    return found


def test_methods_that_a_page_names_exist() -> None:
    classes = _classes()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, method in re.findall(r"`(?:metalearn\.[\w.]+\.)?([A-Z]\w+)\.(\w+)`", text):
            there = [
                hasattr(kind, method) or f"self.{method} =" in inspect.getsource(kind) for kind in classes.get(name, [])
            ]
            assert name not in classes or any(there), f"{page.name}: {name}.{method}"


@pytest.mark.parametrize("start", [ROOT / "README.md", ROOT / "docs" / "index.md"], ids=lambda page: page.name)
def test_every_page_is_linked_where_readers_start(start: Path) -> None:
    linked = {
        (start.parent / link).resolve() for link in re.findall(r"\]\(([^)#:]+\.md)", start.read_text(encoding="utf-8"))
    }
    docs = ROOT.resolve() / "docs"
    pages = {*docs.glob("*.md"), *docs.glob("*/index.md")} - {docs / "index.md"}
    assert not sorted(page.name for page in pages - linked)


@pytest.mark.parametrize("index", sorted((ROOT / "docs").glob("*/index.md")), ids=lambda page: page.parent.name)
def test_the_first_page_of_a_folder_links_the_others(index: Path) -> None:
    linked = set(re.findall(r"\]\((\w[^)#:]*\.md)", index.read_text(encoding="utf-8")))
    assert linked >= {page.name for page in index.parent.glob("*.md")} - {"index.md"}


@pytest.mark.parametrize(("group", "folder"), [("algorithm", "algorithms"), ("dataset", "data")])
def test_every_choice_has_one_section(group: str, folder: str) -> None:
    """A part of a page with the choice in its title, or a page that has it there."""
    texts = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs" / folder).glob("*.md"))]
    titles = [set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^##? (.*)$", text, re.MULTILINE)))) for text in texts]
    for name in choices(group):
        assert sum(name in of_page for of_page in titles) == 1, f"{group}={name}"
