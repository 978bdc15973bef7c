"""scripts/config_reference.py: docs/reference.md says what the YAML files say."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from metalearn.config.files import choices
from tests.scripts.load import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("config_reference")


@pytest.fixture(scope="module")
def page(script: ModuleType) -> str:
    return str(script.page())


def test_the_page_is_up_to_date(script: ModuleType, page: str) -> None:
    assert page == script.PAGE.read_text(encoding="utf-8"), "run: python scripts/config_reference.py"


def test_every_setting_has_a_meaning_and_a_default(page: str) -> None:
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in page.splitlines() if re.match(r"\| `[a-z_.]+` \|", line)]
    assert len(rows) > 200
    assert not [row[0] for row in rows if not row[1].strip() or not row[3].strip()]
    assert {len(row) for row in rows} == {5, 6}, "each cell is one cell"


def test_every_choice_is_there_and_defaults_of_choices_are_told_apart(page: str) -> None:
    for group in ("algorithm", "backbone", "dataset", "task"):
        assert all(f"| `{group}={name}` | " in page for name in choices(group))
    assert re.search(
        r"\| `train.meta_batch_size` \| tasks per outer step \| int >= 1 \| `4` \|.* `5`: reptile \|", page
    )
    assert re.search(
        r"\| `algorithm.first_order` \|[^\n]*`false`: boil, maml, mamlpp; `true`: fomaml \| boil, fomaml, maml, mamlpp \|",
        page,
    )


def test_check_fails_where_the_page_is_stale(
    script: ModuleType, page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stale = tmp_path / "reference.md"
    stale.write_text(page.replace("tasks per outer step", "tasks"), encoding="utf-8")
    monkeypatch.setattr(script, "PAGE", stale)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "__file__", str(tmp_path / "config_reference.py"))
    monkeypatch.setattr(script, "page", lambda: page)
    monkeypatch.setattr("sys.argv", ["config_reference.py", "--check"])
    with pytest.raises(SystemExit, match="out of date"):
        script.main()
    monkeypatch.setattr("sys.argv", ["config_reference.py"])
    script.main()
    assert stale.read_text(encoding="utf-8") == page
