"""The example of a benchmark in docs/extending.md works as it stands there, from a package of a user's own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from metalearn.cli.main import main
from metalearn.config import plugins
from metalearn.data.images import ImageClasses
from metalearn.engine.build import _dataset, build_dataset
from metalearn.errors import UserError
from tests.compose import compose
from tests.data.small_files import picture, pixels, write_zip

PAGE = Path(__file__).parent.parent.parent / "docs" / "extending.md"
FILES = {f"leaves/species {k}/{i}.jpg": picture(10 * k + i) for k in range(12) for i in range(4)}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package of the page, trusted; its data directory, which is empty."""
    written = re.findall(r"`(my_lab/[\w/.]+)`:\n\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for name, _ in written] == ["my_lab/leaves.py", "my_lab/conf/dataset/leaves.yaml"]
    for name, text in [*written, ("my_lab/__init__.py", "")]:
        file = tmp_path / "home" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "home")
    monkeypatch.setenv(plugins.VARIABLE, "my_lab")
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        monkeypatch.delitem(sys.modules, name)
    _dataset.cache_clear()
    (tmp_path / "data" / "leaves").mkdir(parents=True)
    return tmp_path / "data" / "leaves"


def test_the_data_set_is_read_and_divided(lab: Path) -> None:
    write_zip(lab / "leaves.zip", FILES)
    dataset = build_dataset(compose("dataset=leaves", "dataset.size=12"))
    assert isinstance(dataset, ImageClasses)
    assert dataset.class_names == tuple(sorted(f"species {k}" for k in range(12)))
    assert [len(dataset.split.classes[part]) for part in ("train", "val", "test")] == [7, 2, 3]
    first = dataset.images.of_class(dataset.class_names.index("species 3"))[0]
    assert np.array_equal(first, pixels(FILES["leaves/species 3/0.jpg"], 12))


def test_a_missing_file_is_one_line_with_the_command(lab: Path) -> None:
    with pytest.raises(UserError, match=r"leaves\.zip .* is missing in .*leaves: metalearn data fetch leaves"):
        build_dataset(compose("dataset=leaves"))


def test_the_commands_about_data_know_it(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_zip(lab / "leaves.zip", FILES)
    main(["data", "check", "leaves", "dataset.size=12"])
    out = capsys.readouterr().out
    assert "12 classes, 48 images" in out
    main(["data", "list"])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("leaves")]
    assert "Leaves of trees" in row
    assert "here" in row
