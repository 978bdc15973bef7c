"""`metalearn data`: a data set of a plug-in is listed, fetched from a local server, checked, damaged and checked again."""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import json
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from metalearn.cli.main import main
from metalearn.config.files import choices, target_of
from metalearn.data.files.catalogue import about_of
from metalearn.data.files.published import About
from metalearn.engine.build import _dataset
from tests.data.small_sets import SMALL_SETS

MODULE = """
import torch  # a module of a data set may import anything; the table must not

from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked, by_path, load_listed
from metalearn.data.files.published import About, PublishedFile

URL = "{url}"
def _more(settings, files):
    return files if settings.get("more") else files[:1]

ABOUT = About(
    "coloured squares", "https://squares.example", "CC0",
    (
        PublishedFile("squares.zip", tuple(f"{{URL}}/{{name}}" for name in ("gone.zip", "squares.zip")), {size}, md5="{md5}"),
        PublishedFile("labels.csv"),
    ),
    choose=_more,
)

def load(root: str | None, more: bool) -> ImageClasses:
    asked = Asked(root, "random", 0, 8, {{"train": 1, "val": 1, "test": 1}})
    return load_listed("squares", ABOUT, asked, by_path(r"([a-z]+)/[^/]+\\.png"), drawn=(2, 2))

def credits(root):
    return ["squares drawn by nobody"]
"""
YAML = """
# Coloured squares.
_target_: squarelab.squares.load
root: null
more: false
limits: {root: null or str, more: bool}
"""


@functools.cache  # a zip holds the time at which it was made
def squares() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number, name in enumerate(("red", "green", "blue", "black", "white", "grey")):
            for k in range(4):
                image = io.BytesIO()
                Image.new("RGB", (8, 8), (40 * number, 10 * k, 99)).save(image, "PNG")
                archive.writestr(f"{name}/{k}.png", image.getvalue())
    return content.getvalue()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """The folder that a local server serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    (folder / "url").write_text(f"http://127.0.0.1:{httpd.server_address[1]}")
    yield folder
    httpd.shutdown()
    httpd.server_close()
    thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def root(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Makes the plug-in known; where its files are looked for."""
    content = squares()
    (served / "squares.zip").write_bytes(content)
    package = tmp_path / "site" / "squarelab"
    (package / "conf" / "dataset").mkdir(parents=True)
    (package / "__init__.py").touch()
    md5, url = hashlib.md5(content).hexdigest(), (served / "url").read_text()
    (package / "squares.py").write_text(MODULE.format(url=url, size=len(content), md5=md5))
    (package / "conf" / "dataset" / "squares.yaml").write_text(YAML.lstrip())
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("METALEARN_PLUGINS", "squarelab")
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    _dataset.cache_clear()
    yield tmp_path / "data" / "squares"
    for name in [name for name in sys.modules if name.partition(".")[0] == "squarelab"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    _dataset.cache_clear()


def row(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("squares ")]
    return " ".join(line.split())


def fails(argv: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == code


def test_from_the_list_to_a_checked_data_set_and_back(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "list"])
    assert row(capsys.readouterr().out) == f"squares coloured squares missing ({len(squares()) / 1e3:.1f} kB) CC0"

    fails(["data", "check", "squares"], 1)
    out, err = capsys.readouterr()
    assert out.startswith("missing: squares.zip (")
    assert "metalearn data fetch squares fetches it" in err
    assert err.count("\n") == 1

    main(["data", "fetch", "squares"])
    out = capsys.readouterr().out
    assert f"{root / 'squares.zip'} is fetched and checked\n" in out
    assert "gone.zip" in out, "the first mirror lacks it"
    main(["data", "fetch", "squares"])
    assert capsys.readouterr().out == f"{root / 'squares.zip'} is there\n"
    (root / "squares.zip").write_bytes(b"half")
    main(["data", "fetch", "squares"])
    assert f"is there, but has 4 bytes, {len(squares())} are published: to fetch it again" in capsys.readouterr().out
    (root / "squares.zip").write_bytes(squares())

    main(["data", "check", "squares"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("md5 as published")
    assert lines[1].endswith(": intact")
    assert lines[2] == "6 classes, 24 images (4 a class), 8x8 pixels, RGB"
    assert lines[3].startswith("split 'random-0', sha256 ")
    assert lines[4:] == [
        *(
            f"  {split}: 2 classes, 8 images, 4 a class; largest task 2 ways, shots and queries together 4"
            for split in ("train", "val", "test")
        ),
        "squares drawn by nobody",
    ]
    main(["data", "list"])
    assert row(capsys.readouterr().out) == "squares coloured squares 6 24 here CC0"


def test_what_is_damaged_is_named_and_the_exit_code_says_so(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["data", "fetch", "squares"])
    main(["data", "check", "squares"])
    (images,) = (tmp_path / "cache").glob("squares-*/images.npy")
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(bytes(content))
    capsys.readouterr()
    fails(["data", "check", "squares"], 1)
    assert f"{images.parent}: damaged (" in capsys.readouterr().out
    _dataset.cache_clear()
    (root / "squares.zip").write_bytes((root / "squares.zip").read_bytes() + b"more")
    fails(["data", "check", "squares"], 1)
    assert "squares.zip: not the published file: it has" in capsys.readouterr().out


def test_settings_choose_the_files_and_one_that_nobody_serves_does_not_stop_the_others(
    root: Path, served: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(["data", "fetch", "squares", "dataset.more=true"], 1)
    out, err = capsys.readouterr()
    assert "squares.zip is fetched" in out
    assert err.startswith("metalearn: error: dataset=squares: labels.csv (no size or checksum")
    assert "by hand: https://squares.example" in err
    elsewhere = root.parent / "other"
    (served / "squares.zip").unlink()
    fails(["data", "fetch", "squares", f"dataset.root={elsewhere}"], 1)
    err = capsys.readouterr().err
    assert f"by hand: put it at {elsewhere / 'squares.zip'}" in err
    assert err.count("\n") == 1


def test_a_folder_that_was_unpacked_counts_as_the_archive(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METALEARN_DATA", str(root.parent))
    (root.parent / "omniglot" / "images_background").mkdir(parents=True)
    fails(["data", "check", "omniglot"], 1)
    out = capsys.readouterr().out
    assert "images_background: unpacked: the checksum is that of the packed file" in out
    assert "missing: images_evaluation.zip (6.5 MB, sha256 1f61a8f3" in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "data needs one of list, fetch, check"),
        (["fetsh", "omniglot"], "did you mean 'fetch'?"),
        (["fetch"], "data fetch needs a data set: metalearn data fetch NAME"),
        (["check", "omniglt"], "no data set named 'omniglt'; did you mean 'omniglot'?"),
        (["fetch", "omniglot", "seed=3"], "takes settings of the data set (dataset.key=value), 'seed=3' was given"),
        (["fetch", "omniglot", "dataset.rot=x"], "no setting 'dataset.rot'; did you mean 'dataset.root'?"),
        (["fetch", "omniglot", "dataset.size=2"], "dataset.size=2 is not allowed"),
        (["list", "omniglot"], "data list takes no argument"),
        (["list", "--all"], "no flag named '--all'"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    fails(["data", *argv], 2)
    out, err = capsys.readouterr()
    assert said in err
    assert err.count("\n") == 1
    assert out == ""


def test_a_set_without_files_has_nothing_to_fetch(capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "fetch", "glyphs"])
    assert capsys.readouterr().out == "glyphs needs no file\n"


def test_what_a_package_manager_fetches_names_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path))
    for action in ("fetch", "check"):
        fails(["data", action, "icons"], 2)
        assert f"dataset.root={tmp_path / 'icons'} is not the npm package" in (said := capsys.readouterr().err)
        assert "npm pack @iconify/json" in said
    main(["data", "list"])
    assert "missing (104.0 MB)" in icons_of(capsys.readouterr().out)


def test_a_package_of_any_version_is_found_and_its_credits_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "icons").mkdir()
    SMALL_SETS["emoji"](tmp_path / "icons")
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path))
    packed = tmp_path / "icons" / "iconify-json-2.2.535.tgz"
    fails(["data", "check", "emoji"], 1)
    assert f"{packed}: not the published file: it has {packed.stat().st_size} bytes" in capsys.readouterr().out
    other = packed.rename(packed.with_name("iconify-json-2.2.600.tgz"))
    main(["data", "check", "emoji"])
    said = capsys.readouterr().out
    assert f"{other}: " in said
    assert "no checksum is published" in said
    assert "240 classes, 1,200 images (5 a class), 28x28 pixels, RGB" in said
    assert "noto: Noto by Noto's authors, MIT, https://example.org/licence" in said
    main(["data", "fetch", "emoji"])
    assert capsys.readouterr().out == f"{other} is there\n"
    main(["data", "list"])
    assert " here " in icons_of(capsys.readouterr().out)


def icons_of(table: str) -> str:
    (line,) = [line for line in table.splitlines() if line.startswith("icons ")]
    return line


def test_numbers_instead_of_images_are_described_too(capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "check", "sinusoid"])
    assert capsys.readouterr().out.startswith("sinusoid: regression tasks; an example has the shape [1]\n")


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys; from metalearn.cli.main import main; main(['data', 'list'])\n"
        "assert not {'torch', 'hydra', 'omegaconf', 'PIL'} & set(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert {line.split()[0] for line in ended.stdout.splitlines()[1:]} == set(choices("dataset"))


@pytest.mark.parametrize("name", choices("dataset"))
def test_what_is_read_without_importing_the_module_is_what_the_module_says(name: str) -> None:
    module = target_of("dataset", name).rpartition(".")[0]
    expected: About | None = getattr(importlib.import_module(module), "ABOUT", None)
    read = about_of(module)
    if expected is None or read is None:
        assert expected is read
        return
    plain = [
        json.dumps({**vars(about), "choose": "", "place": about.place is None, "files": [str(f) for f in about.files]})
        for about in (expected, read)
    ]
    assert plain[0] == plain[1]
    assert len({file.name for file in read.files}) == len(read.files)


@pytest.mark.parametrize("name", choices("dataset"))
def test_sizes_checksums_and_addresses_have_their_form(name: str) -> None:
    """A digit that was lost in copying would refuse every right file."""
    about = about_of(target_of("dataset", name).rpartition(".")[0])
    for file in about.files if about else ():
        assert file.size is None or file.size > 0
        assert file.md5 is None or re.fullmatch("[0-9a-f]{32}", file.md5)
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert all(size > 0 and re.fullmatch("[0-9a-f]{32}", md5) for size, md5 in file.repacked)
        assert all(re.fullmatch(r"https?://[^\s]+", url) for url in file.urls), file.urls
        assert len(set(file.urls)) == len(file.urls)
        assert not {"", ".", ".."} & set(file.name.split("/")), "its place lies below the data set's folder"
