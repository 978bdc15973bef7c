from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from metalearn.errors import UserError
from metalearn.runs import directory as files
from metalearn.runs.record import read_results


def test_json_keeps_the_order_of_keys_and_writes_null_for_what_is_no_number(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"z": 1, "a": [math.nan, -math.inf, 0.1], "ä": "±"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert list(json.loads(text).items()) == [("z", 1), ("a", [None, None, 0.1]), ("ä", "±")]
    assert "NaN" not in text


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    files.write_json(path, {"a": 1})

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_config_reads_the_same_with_yaml_and_with_omegaconf(tmp_path: Path) -> None:
    # Texts that look like something else, small floats, and what a run's configuration is made of.
    values = {"text": ["1e5", "on", "null", "", "007", "a: b", "Zürich"], "lr": 1e-5, "none": None, "flag": True}
    config = {"names": {"algorithm": "maml"}, "empty": {}, **values}
    files.write_config(tmp_path, config)
    assert files.read_config(tmp_path) == config
    assert list(files.read_config(tmp_path)) == list(config)
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml")) == config


def test_a_target_may_lie_in_folders_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert files.check_target("new/deep/page.html", "--html") == Path("new/deep/page.html")
    assert files.check_target("page.html", "--html") == Path("page.html")
    assert files.check_target("file", "--html") == Path("file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for wrong, message in (("file/new/page.html", "file' is a file"), (".", "is a folder: name a file")):
        with pytest.raises(UserError, match=f"--html {wrong} .*{message}"):
            files.check_target(wrong, "--html")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="whoever may write everywhere")
def test_a_target_in_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="you may not write to"):
        files.check_target(str(tmp_path / "new" / "page.html"), "--html")


@pytest.mark.parametrize("content", ["- a\n- b\n", "", "a: [\n", "a: !!python/object/apply:os.getcwd []\n"])
def test_a_config_that_is_no_plain_mapping_is_the_users_to_mend(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml"):
        files.read_config(tmp_path)


@pytest.mark.parametrize("read", [files.read_config, read_results])
def test_a_missing_file_is_named(tmp_path: Path, read: Any) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        read(tmp_path)


@pytest.mark.parametrize("content", ["[]", '{"a": ', "\xff"])
def test_results_that_are_no_mapping_are_the_users_to_mend(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"results\.json"):
        read_results(tmp_path)
