"""scripts/mkdocs.yml and scripts/site_pages.py: the documentation site builds strictly, and every page has its place in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("mkdocs")

from tests.scripts.load import ROOT, load_script  # behind the check that mkdocs is there


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("see [tasks.py](../metalearn/tasks.py).", "see `metalearn/tasks.py`."),
        ("of [`snell2017/a`](../conf/experiment/snell2017/a.yaml)", "of `conf/experiment/snell2017/a.yaml`"),
        ("[the files](../conf)", "the files (`conf`)"),
        ("[a page](data.md#folder)", "[a page](data.md#folder)"),
    ],
)
def test_links_to_files_outside_become_names(written: str, shown: str) -> None:
    assert load_script("site_pages").on_page_markdown(written) == shown


def test_the_first_pages_come_in_the_order_in_which_one_reads_them() -> None:
    nav = yaml.safe_load((ROOT / "scripts" / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = [
        page
        for part in nav
        for entry in part.values()
        for page in ([entry] if isinstance(entry, str) else [p for one in entry for p in one.values()])
    ]
    assert pages[:4] == ["index.md", "quickstart.md", "own-images.md", "reproduce.md"]
    assert {page for page in pages if page.endswith(".md")} == {"tour.md"} | {
        file.name for file in (ROOT / "docs").glob("*.md")
    }


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", "scripts/mkdocs.yml"]
    done = subprocess.run([*build, "--site-dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "quickstart.html" in home
    assert "ring   -&gt; ring" in (tmp_path / "tour.html").read_text(encoding="utf-8")
    for page in tmp_path.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'src="http' not in text, page.name
        assert 'rel="stylesheet" href="http' not in text, page.name
