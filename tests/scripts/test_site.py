"""scripts/mkdocs.yml and scripts/site_pages.py: the documentation site builds strictly, and every page has its place in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

pytest.importorskip("mkdocs")

from tests.scripts.load import ROOT, load_script  # behind the check that mkdocs is there


@pytest.mark.parametrize(
    ("page", "written", "shown"),
    [
        ("compare.md", "see [tasks.py](../metalearn/tasks.py).", "see `metalearn/tasks.py`."),
        (
            "compare.md",
            "of [`snell2017/a`](../conf/experiment/snell2017/a.yaml)",
            "of `conf/experiment/snell2017/a.yaml`",
        ),
        ("compare.md", "[the files](../conf)", "the files (`conf`)"),
        ("compare.md", "[a page](data/folder.md#folder)", "[a page](data/folder.md#folder)"),
        ("data/index.md", "[a page](../evaluation.md)", "[a page](../evaluation.md)"),
        ("data/index.md", "[the files](../../conf)", "the files (`conf`)"),
    ],
)
def test_links_to_files_outside_become_names(page: str, written: str, shown: str) -> None:
    at = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    assert load_script("site_pages").on_page_markdown(written, at) == shown


def test_the_first_pages_come_in_the_order_in_which_one_reads_them() -> None:
    nav = yaml.safe_load((ROOT / "scripts" / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    load_script("site_pages").on_config(SimpleNamespace(nav=nav, docs_dir=ROOT / "docs"))
    pages = [
        page
        for part in nav
        for entry in part.values()
        for one in ([entry] if isinstance(entry, str) else entry)
        for page in ([one] if isinstance(one, str) else one.values())
    ]
    assert pages[:4] == ["index.md", "quickstart.md", "own-images.md", "reproduce.md"]
    docs = ROOT / "docs"
    assert sorted(pages) == sorted(["tour.md", *(file.relative_to(docs).as_posix() for file in docs.rglob("*.md"))])


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", "scripts/mkdocs.yml"]
    done = subprocess.run([*build, "--site-dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "quickstart.html" in home
    assert "ring   -&gt; ring" in (tmp_path / "tour.html").read_text(encoding="utf-8")
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'src="http' not in text, page.name
        assert 'rel="stylesheet" href="http' not in text, page.name
