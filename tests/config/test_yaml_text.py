"""YAML as libyaml reads it."""

from __future__ import annotations

import pytest
import yaml

from metalearn.config.files import conf_dir
from metalearn.config.yaml_text import from_yaml


def test_every_shipped_file_reads_as_by_pyyamls_own_parser() -> None:
    files = sorted(conf_dir().rglob("*.yaml"))
    assert len(files) > 100
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert from_yaml(text) == yaml.safe_load(text) == from_yaml(text.encode()), file


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "\ta: 1", "[" * 100_000, "!!python/object/apply:os.getcwd []"])
def test_what_is_no_yaml_or_would_run_code_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        from_yaml(text)
