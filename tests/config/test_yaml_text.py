"""YAML as libyaml reads it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from metalearn.config.files import conf_dir
from metalearn.config.yaml_text import from_yaml, nodes_of


def test_every_shipped_file_reads_as_by_pyyamls_own_parser() -> None:
    files = sorted(conf_dir().rglob("*.yaml"))
    assert len(files) > 100
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert from_yaml(text) == yaml.safe_load(text) == from_yaml(text.encode()), file
        assert list(places(nodes_of(text))) == list(places(yaml.compose(text))), file


def places(node: yaml.Node | None) -> Iterator[tuple[str, int, int, int, int]]:
    """Every key and value, with where it begins and, of values that are no block, ends."""
    if isinstance(node, yaml.ScalarNode):
        start, end = node.start_mark, node.end_mark
        yield node.value, start.line, start.column, end.line, end.column
    elif isinstance(node, yaml.CollectionNode):
        for entry in node.value:
            for inner in entry if isinstance(entry, tuple) else (entry,):
                yield from places(inner)


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "\ta: 1", "[" * 100_000, "!!python/object/apply:os.getcwd []"])
def test_what_is_no_yaml_or_would_run_code_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        from_yaml(text)
