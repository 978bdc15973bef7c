"""Small packages in the layout of the npm package @iconify/json, written by the tests that read them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BAR = '<path fill="currentColor" d="M2 2h4v20H2z"/>'  # a black bar at the left of 24 x 24


def bar(number: int) -> str:
    """A bar across, whose height says which icon it is."""
    return f'<path fill="currentColor" d="M2 2h20v{1 + number % 20}H2z"/>'


def icon_set(prefix: str, icons: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The JSON of a set; an icon may be given by its body alone."""
    of_set = {name: {"body": icon} if isinstance(icon, str) else icon for name, icon in icons.items()}
    return {"prefix": prefix, "lastModified": 1737398331, "icons": of_set, "width": 24, "height": 24} | more


def info(name: str, licence: str) -> dict[str, Any]:
    """What collections.json says about a set."""
    return {
        "name": name,
        "total": 7447,
        "author": {"name": f"{name}'s authors", "url": "https://example.org/authors"},
        "license": {"title": licence, "spdx": licence, "url": "https://example.org/licence"},
        "samples": ["bell"],
        "height": 24,
        "category": "UI 24px",
        "palette": False,
    }


def files(sets: list[dict[str, Any]], licences: Mapping[str, str]) -> dict[str, bytes]:
    """Path in the package -> content. `licences`: SPDX by prefix, MIT where nothing is said."""
    collections = {each["prefix"]: info(each["prefix"].title(), licences.get(each["prefix"], "MIT")) for each in sets}
    contents = {"collections.json": collections, "package.json": {"name": "@iconify/json", "version": "2.2.535"}}
    contents |= {f"json/{each['prefix']}.json": each for each in sets}
    return {name: json.dumps(content).encode() for name, content in contents.items()}


def pack(root: Path, contents: Mapping[str, bytes], name: str = "iconify-json-2.2.535.tgz") -> Path:
    """The archive as `npm pack` writes it: everything below `package/`."""
    with tarfile.open(root / name, "w:gz") as archive:
        for path, content in contents.items():
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return root / name


def unpack(root: Path, contents: Mapping[str, bytes]) -> Path:
    """The folder `package` that the archive unpacks to."""
    for path, content in contents.items():
        (root / "package" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "package" / path).write_bytes(content)
    return root / "package"
