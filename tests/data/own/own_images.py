"""Small folders of images as a user may have them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 12, height: int = 10) -> Image.Image:
    """Coloured noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def saved(image: Image.Image, kind: str, **more: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **more)
    return content.getvalue()


def png(seed: int) -> bytes:
    return saved(picture(seed), "PNG")


def classes(names: str, images: int = 3, below: str = "") -> dict[str, bytes]:
    """Path -> content of a folder for each letter in `names`."""
    return {f"{below}{name}/{number}.png": png(1000 * ord(name) + number) for name in names for number in range(images)}


def written(root: Path, files: Mapping[str, bytes]) -> Path:
    """The files as a folder, or as the archive that the name of `root` asks for."""
    if root.suffix == ".zip":
        with zipfile.ZipFile(root, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif root.suffix in (".tar", ".gz"):
        with tarfile.open(root, "w:gz" if root.suffix == ".gz" else "w") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    else:
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
    return root


def odd_folder(root: Path) -> Path:
    """Six classes with files of every odd kind, an empty class, a file that is no image, and a double in another class."""
    files = classes("abcdef", 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    files |= {
        "a/turned.jpg": saved(picture(1), "JPEG", exif=exif),
        "a/palette.png": saved(picture(2).quantize(16), "PNG"),
        "b/sixteen.png": saved(Image.fromarray(np.arange(120, dtype=np.uint16).reshape(10, 12) * 500), "PNG"),
        "b/alpha.png": saved(picture(3).convert("RGBA"), "PNG"),
        "c/print.jpg": saved(picture(4).convert("CMYK"), "JPEG"),
        "c/moving.gif": saved(picture(5), "GIF", save_all=True, append_images=[picture(6)]),
        "d/page.jpg": b"<html>not found</html>",
        "e/double.png": files["f/0.png"],
        "notes.txt": b"mine",
        ".hidden/x.png": png(7),
        "a/.DS_Store": b"x",
        "a/Thumbs.db": b"x",
    }
    written(root, files)
    (root / "empty").mkdir()
    return root
