"""What the documentation site needs beyond the pages: a hook of mkdocs, named in scripts/mkdocs.yml.

Pages are written to be read in the repository too. There they link to files outside docs/, which a site does not have: such links become the
name of the file.
"""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls it with the text of each page."""
    return _OUTSIDE.sub(lambda link: _named(link[1], link[2]), markdown)


def _named(text: str, path: str) -> str:
    shown = text.strip("`")
    return f"`{path}`" if shown in path or shown in path.replace("/", ".") else f"{text} (`{path}`)"
