"""What the documentation site needs beyond the pages: a hook of mkdocs, named in scripts/mkdocs.yml.

Pages are written to be read in the repository too. There they link to files outside docs/, which a site does not have: such links become the
name of the file. The notebook becomes a page: its cells and their outputs.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([^)]+)\)")


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


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls it with the text of each page."""
    return _OUTSIDE.sub(lambda link: _named(link[1], link[2]), markdown)


def _named(text: str, path: str) -> str:
    shown = text.strip("`")
    return f"`{path}`" if shown in path or shown in path.replace("/", ".") else f"{text} (`{path}`)"
