"""The published numbers of conf/reference, which `metalearn reproduce` compares a run with. No run reads them. As in papers: accuracies in percent.

The experiment `finn2017/omniglot_5w1s` has its numbers in the cell `omniglot_5w1s` of `reference/finn2017.yaml`. An experiment without a
folder, such as `mine`, has a file of its own without cells, `reference/mine.yaml`. A file holds

    like            another file whose rows and differences hold here too (optional)
    paper, table, url
    interval_over   what the paper's intervals are over: tasks | seeds | null (it gives none)
    mark            the accuracy that `metalearn bench record` wants to see reached (optional)
    starts_from     the experiment that a run of this one starts from: `train.init` has to name a run of it (optional)
    rows            name -> score         accuracy or mse, as the tasks are, or a further score of the algorithm by its name in results.json
                            after         inner steps after which the score is taken; null: after all of the test
                            transductive  how to evaluate: null (as trained) | true | false
                            reported      the paper's number; null: it reports none
                            interval      half the width of the paper's interval; null: it gives none
                            band          the worst that counts as reproduced: the least accuracy, the largest error; null where nothing is reported
    differences     aspect -> one sentence on how our protocol departs from the paper's
    cells           name -> the same keys, for this cell alone; `like: FILE/CELL` starts from a cell of any file

A cell adds to its file, and a file to what it is like. There, null takes a row or a difference away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from metalearn.config import plugins
from metalearn.config.files import conf_dir
from metalearn.config.limits import allows
from metalearn.config.yaml_text import from_yaml
from metalearn.errors import UserError, nearest, one_line

Node = dict[str, Any]

_ROW_RULES = {
    "score": "str",
    "transductive": "null or bool",
    "reported": "null or float >= 0",
    "interval": "null or float >= 0",
    "band": "null or float >= 0",
    "after": "null or int >= 0",
}
_RULES = {
    "paper": "str",
    "table": "str",
    "url": "str",
    "interval_over": "null or tasks or seeds",
    "starts_from": "null or str",
    "mark": "null or float >= 0",
}


class Row(NamedTuple):
    """One published number, or one that is worth measuring though the paper reports none."""

    name: str
    score: str  # the main score of the tasks, "accuracy" or "mse", or the name of a further score of the algorithm
    transductive: bool | None  # how to evaluate; None: as the algorithm was trained
    reported: float | None
    interval: float | None  # half the width of the paper's interval
    band: float | None  # the worst that counts as reproduced
    after: int | None = None  # inner steps after which the score is taken; None: after all

    def verdict(
        self,
        ours: float | None,
        ci95: float = 0.0,
        not_the_question: Sequence[str] = (),
        higher_is_better: bool = True,
    ) -> str:
        """What a measured number says of the published one.

        Args:
            ours: in the unit of the paper; None where this score was not measured.
            ci95: half the width of its interval: the widest that is known, as the band is not about these test classes alone.
            not_the_question: changed settings that make it the answer to another question.
            higher_is_better: whether of two scores the larger one is the better one.
        """
        if not_the_question:
            return f"not comparable: {', '.join(not_the_question)} differ{'s' if len(not_the_question) == 1 else ''}"
        if ours is None:
            return "not scored"
        if self.band is None:
            return "no published number" if self.reported is None else "no band"
        if abs(ours - self.band) < ci95:
            return "undecided"
        if higher_is_better:
            return "reproduced" if ours >= self.band else "below the band"
        return "reproduced" if ours <= self.band else "above the band"


class Reference(NamedTuple):
    """What a paper reports in one cell of its table, and how our protocol differs from the paper's."""

    paper: str
    table: str
    url: str
    interval_over: str | None  # "tasks" or "seeds"
    rows: tuple[Row, ...]
    differences: tuple[str, ...]
    starts_from: str | None = None  # the experiment whose run `train.init` has to name
    start: Node | None = None  # its configuration, which whoever can compose one adds
    mark: float | None = None  # the accuracy that the record table asks for


def read_reference(config: Node, folders: Sequence[Path] = ()) -> Reference:
    """The published numbers of the experiment that `config` was composed from.

    Args:
        config: the configuration of a run. One that an earlier version wrote may hold its `reference` itself.
        folders: where to look for `reference/NAME.yaml` first, such as `--config-dir`; then follow plug-ins and the shipped files.

    Raises:
        UserError: there is no reference for it, or a value in it is not allowed.
    """
    experiment = config["names"]["experiment"]
    node = config.get("reference")
    if node is None and experiment is not None:
        node = _Files(folders).cell(experiment)
    if node is None:
        raise UserError(f"experiment={experiment} has no reference: it reproduces no published number")
    return _checked(node, f"reference of experiment={experiment}")


class _Files:
    """The reference files in several folders; the first folder that has a file wins."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [*folders, *plugins.conf_dirs(), conf_dir()]

    def cell(self, experiment: str, seen: tuple[str, ...] = ()) -> Node | None:
        """The numbers of one experiment with all that they are like, or None; `seen` are the names that led here."""
        folder, _, cell = experiment.rpartition("/")
        content = self._file(folder or cell, seen)
        if content is None or not folder:
            return content
        cells = content.pop("cells", None) or {}
        if cell not in cells:
            return None
        own = dict(cells[cell] or {})
        if like := own.pop("like", None):
            content = _added(_base(self.cell, like, (*seen, experiment)), content)
        return _added(content, own)

    def _file(self, name: str, seen: tuple[str, ...]) -> Node | None:
        files = (folder / "reference" / f"{name}.yaml" for folder in self._folders)
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            return None
        try:
            content = from_yaml(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"{file}: {one_line(error)}") from error
        if not isinstance(content, dict):
            raise UserError(f"{file} holds no mapping from settings to values")
        if like := content.pop("like", None):
            base = _base(self._file, like, (*seen, name))
            base.pop("cells", None)
            return _added(base, content)
        return content


def _base(read: Callable[[str, tuple[str, ...]], Node | None], name: str, seen: tuple[str, ...]) -> Node:
    """What `like: NAME` starts from."""
    if name in seen:
        raise UserError(f"reference: 'like: {name}' leads back to itself")
    base = read(name, seen)
    if base is None:
        raise UserError(f"reference: nothing is called '{name}'")
    return base


def _added(base: Node, more: Node) -> Node:
    """`base` with `more` in it, mapping by mapping, in the order of `base`."""
    merged = dict(base)
    for key, value in more.items():
        old = merged.get(key)
        merged[key] = _added(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _checked(node: Node, whose: str) -> Reference:
    known = [*_RULES, "rows", "differences"]
    for key in node:
        if key not in known:
            raise UserError(f"{whose}: no setting '{key}'{nearest(key, known)}")
    rows = {name: row for name, row in (node.get("rows") or {}).items() if row is not None}
    for key, rule, value in _ruled(node, rows):
        if not allows(rule, value):
            raise UserError(f"{whose}: {key}={value} is not allowed ({rule})")
    return Reference(
        node["paper"],
        node["table"],
        node["url"],
        node.get("interval_over"),
        tuple(Row(name, **{key: row.get(key) for key in _ROW_RULES}) for name, row in rows.items()),
        tuple(text for text in (node.get("differences") or {}).values() if text is not None),
        node.get("starts_from"),
        mark=node.get("mark"),
    )


def _ruled(node: Node, rows: dict[str, Node]) -> Iterator[tuple[str, str, Any]]:
    """Every value that has a rule: its key, the rule and the value; UserError for a key that rows do not have."""
    yield from ((key, rule, node.get(key)) for key, rule in _RULES.items())
    for name, row in rows.items():
        for key in row:
            if key not in _ROW_RULES:
                raise UserError(f"no setting 'reference.rows.{name}.{key}'{nearest(key, _ROW_RULES)}")
        yield from ((f"rows.{name}.{key}", rule, row.get(key)) for key, rule in _ROW_RULES.items())
    yield from ((f"differences.{key}", "null or str", text) for key, text in (node.get("differences") or {}).items())
