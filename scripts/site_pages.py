"""What the documentation site needs beyond the pages: a hook of mkdocs, named in scripts/mkdocs.yml.

Pages are written to be read in the repository too. There they link to files outside docs/, which a site does not have: such links become the
name of the file. The notebook becomes a page: its cells and their outputs. Pages that lie in a folder are put behind the other ones.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

FOLDERS = {"algorithms": "Algorithms", "data": "Data sets"}  # of docs -> its title


def on_config(config: Any, **_: Any) -> Any:
    """mkdocs calls it with its settings: each folder's pages become a section, its index first."""
    for folder, title in FOLDERS.items():
        pages = sorted(
            (Path(config.docs_dir) / folder).glob("*.md"), key=lambda page: (page.name != "index.md", page.name)
        )
        config.nav.append({title: [f"{folder}/{page.name}" for page in pages]})
    return config


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """mkdocs calls it with all files: docs/tour.ipynb is put in as the page tour.md."""
    notebook = json.loads((Path(config.docs_dir) / "tour.ipynb").read_text(encoding="utf-8"))
    files.append(File.generated(config, "tour.md", content=notebook_text(notebook)))
    return files


def notebook_text(notebook: dict[str, Any]) -> str:
    """A notebook as Markdown: text and pictures of outputs stand below their cell."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
            picture = "".join(data.get("image/png", "")).replace("\n", "")
            parts.append(f"![a picture](data:image/png;base64,{picture})" if picture else f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs calls it with the text of each page."""
    up = "../" * (page.file.src_uri.count("/") + 1)
    return re.sub(rf"\[([^\]]*)\]\({re.escape(up)}([^)]+)\)", lambda link: _named(link[1], link[2]), markdown)


def _named(text: str, path: str) -> str:
    shown = text.strip("`")
    return f"`{path}`" if shown in path or shown in path.replace("/", ".") else f"{text} (`{path}`)"
