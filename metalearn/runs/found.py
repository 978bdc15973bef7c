"""Which runs there are below given paths, read from their small files alone: results.json, config.yaml, eval-<time>.json. Needs no torch.

A run that has not ended, failed, or cannot be read is found too, and says so.
"""

from __future__ import annotations

import functools
import glob
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from metalearn.config.tree import leaves
from metalearn.errors import UserError, nearest, one_line
from metalearn.kinds import Scale, scale_of
from metalearn.locks import is_folder_locked
from metalearn.runs.directory import mapping, read_text
from metalearn.runs.record import read_results
from metalearn.status import Status

LABEL = "label.txt"  # what `metalearn runs mark` wrote
UNREADABLE = "unreadable"
_NAMES = ("algorithm", "dataset", "backbone", "experiment")
_LINE = re.compile(r"( *)([A-Za-z_][\w./-]*):(?: (.*))?")
_VALUE = re.compile(
    r"[\w./~][\w./~+=@,%-]*( [\w./~+=@,%()-]+)*|-[\d.]\S*|\[[\w., -]*\]|'[^']*'"
)  # texts that end with their line
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Found:
    """A run, or with `evaluation` one of its tests under other conditions.

    Attributes:
        path: the run directory.
        status: one of Status, or UNREADABLE.
        error: why it failed, or cannot be read.
        config: what config.yaml holds; empty where it cannot be read.
        results: what results.json or the evaluation's file holds; empty where there is none.
        evaluation: eval-<time>.json; None: the run's own test.
        label: what `metalearn runs mark` called it.
    """

    path: Path
    status: str
    error: str | None
    config: dict[str, Any]
    results: dict[str, Any]
    evaluation: Path | None = None
    label: str | None = None
    unreadable: tuple[str, ...] = field(default=())  # files that say less than they should, with the reason

    @property
    def is_run(self) -> bool:
        """Whether metalearn wrote it; other programs have files named config.yaml too. Of an unreadable one that cannot be told."""
        if self.config or self.results:
            return {"algorithm", "dataset"} <= set(self.config or self.results)
        return self.status == UNREADABLE or bool(self.unreadable)

    @property
    def file(self) -> Path:
        """What the scores come from."""
        return self.evaluation or self.path / "results.json"

    @property
    def tasks_file(self) -> Path:
        """Where the scores of single tasks are, if they are there."""
        return self.path / (f"{self.evaluation.stem}-tasks.npz" if self.evaluation else "test_tasks.npz")

    def name_of(self, what: str) -> str | None:
        """The name of its algorithm, dataset, backbone or experiment."""
        name = self.results.get(what) or _at(self.config, f"names.{what}")
        return None if name is None else str(name)

    @property
    def seed(self) -> Any:
        """The seed of its training; None where nothing says it."""
        return self.results.get("seed", self.config.get("seed"))

    @property
    def kind(self) -> Scale:
        """How its scores are read."""
        return scale_of(self.results)

    @property
    def test(self) -> dict[str, Any]:
        """The `test` entry; empty where there is none."""
        return self.results.get("test") or {}

    @property
    def score(self) -> float | None:
        """The score of its test, where it ended with one that is a number."""
        score = self.test.get(self.kind.score) if self.status == Status.DONE else None
        return score if isinstance(score, int | float) and math.isfinite(score) else None

    @property
    def eval_seed(self) -> Any:
        """The seed of its test tasks, as an override of the evaluation or the run's configuration says it."""
        return self.changes.get("eval.seed", _at(self.config, "eval.seed"))

    @functools.cached_property
    def changes(self) -> dict[str, Any]:
        """What an evaluation changed: key -> value, as the command line said it."""
        parts = (str(text).partition("=") for text in self.results.get("overrides", ()) if self.evaluation)
        return {key.lstrip("+"): _scalar(value) for key, _, value in parts}

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Every setting by its dotted path, and what filters may ask for beside: names, status, label, seed, score."""
        return {
            **dict(leaves(self.config)),
            **{key: value for what in _NAMES if (value := self.name_of(key := what)) is not None},
            **{f"task.{key}": value for key, value in leaves(self.results.get("task") or {})},
            **self.changes,
            "seed": self.seed,
            "status": str(self.status),
            "label": self.label,
            "score": self.score,
            "run": str(self.path),
        }


def found(paths: Sequence[str | Path], evaluations: bool = False) -> list[Found]:
    """The runs at or below the paths, each once, in the order of the paths and there of their names.

    Args:
        paths: run directories, sweeps, other folders, files in a run directory, patterns such as `outputs/*/maml-*`.
        evaluations: also the tests of these runs under other conditions.

    Raises:
        UserError: a path is not there, or no run is below it.
    """
    runs: dict[Path, Found] = {}
    for path in paths:
        below = [folder for place in _places(str(path)) for folder in run_directories(place)]
        read = {folder: runs.get(folder) or read_run(folder) for folder in below}
        ours = {folder: run for folder, run in read.items() if run.is_run}
        if not ours:
            raise UserError(f"'{path}' holds no run directory")
        runs |= ours
    if not evaluations:
        return list(runs.values())
    return [one for run in runs.values() for one in (run, *_evaluations(run))]


def _places(path: str) -> list[Path]:
    whole = os.path.expanduser(path)
    if os.path.exists(whole):
        place = Path(whole)
        return [place if place.is_dir() else place.parent]
    matches = sorted(glob.glob(whole, recursive=True)) if glob.has_magic(whole) else []
    if not matches:
        raise UserError(f"'{path}' {'matches nothing' if glob.has_magic(whole) else 'is not there'}")
    return list(dict.fromkeys(place if place.is_dir() else place.parent for place in map(Path, matches)))


def run_directories(folder: Path) -> Iterator[Path]:
    """The run directories at or below a folder, in the order of their names; links to folders are not followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"'{folder}' cannot be read: {error.strerror}") from error
    names = {entry.name for entry in entries}
    if names & {"config.yaml", "results.json"}:
        yield folder
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from run_directories(Path(entry.path))


def read_run(path: Path) -> Found:
    """A run directory, whatever state it is in."""
    faults, config, results = [], {}, {}
    if (path / "config.yaml").exists():
        try:
            config = quick_config(path / "config.yaml")
            _check_sections(
                path / "config.yaml", config, ("names", "task", "train", "eval", "dataset", "algorithm", "backbone")
            )
        except UserError as error:
            faults.append(one_line(error))
            config = {}
    else:
        faults.append(f"there is no {path / 'config.yaml'}")
    readable = True
    if (path / "results.json").exists():
        try:
            results = read_results(path)
            _check_results(path / "results.json", results)
        except (UserError, KeyError, TypeError) as error:
            faults.append(one_line(error) if isinstance(error, UserError) else f"{path / 'results.json'}: no kind")
            readable, results = False, {}
    status, why = _status(path, results) if readable else (UNREADABLE, faults[-1])
    return Found(path, status, why, config, results, label=label_of(path), unreadable=tuple(faults))


def _check_results(file: Path, results: Mapping[str, Any]) -> None:
    """Raises UserError, KeyError or TypeError where a part is not what a run writes: a table must not fail over one damaged file."""
    _check_sections(file, results, ("task", "test", "train", "split", "environment", "kind"))
    test = results.get("test") or {}
    for key in (scale_of(results).score, "ci95", "ci95_classes", "tasks", "seen_classes"):
        if not isinstance(test.get(key), int | float | None):
            raise UserError(f"{file}: test.{key} is no number")
    if not isinstance(results.get("status"), str | None):
        raise UserError(f"{file}: status is no text")
    if not isinstance(results.get("overrides", []), list):
        raise UserError(f"{file}: overrides is no list")


def _check_sections(file: Path, content: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if not isinstance(content.get(name), Mapping | None):
            raise UserError(f"{file}: {name} is no mapping")


def _status(path: Path, results: Mapping[str, Any]) -> tuple[str, str | None]:
    recorded = results.get("status")
    if isinstance(recorded, str) and recorded in set(Status) and Status(recorded).finished:
        return str(recorded), results.get("error")
    told = path.parent / "jobs" / f"{path.name}.error"  # a job of a sweep that could not say so itself
    if told.is_file():
        return str(Status.FAILED), " ".join(told.read_text(encoding="utf-8", errors="replace").split())
    try:
        running = is_folder_locked(path)
    except OSError:
        running = False
    return str(Status.RUNNING if running else Status.INTERRUPTED), results.get("error")


def label_of(path: Path) -> str | None:
    """What `metalearn runs mark` called it."""
    try:
        return (path / LABEL).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _evaluations(run: Found) -> Iterator[Found]:
    for file in sorted(run.path.glob("eval-*.json")):
        try:
            record = mapping(file, json.loads(read_text(file)))
            _check_results(file, record)
            record["overrides"] = [text for text in record.get("overrides", ()) if text != _as_it_was(run)]
            yield Found(run.path, record.get("status", ""), record.get("error"), run.config, record, file, run.label)
        except (ValueError, KeyError, TypeError) as error:  # UserError too
            why = f"{file} cannot be read: {one_line(error)}"
            yield Found(run.path, UNREADABLE, why, run.config, {}, file, run.label, (why,))


def _as_it_was(run: Found) -> str:
    """The override that only says what the run's own test did."""
    return f"eval.transductive={str(run.test.get('transductive')).lower()}"


def quick_config(path: Path) -> dict[str, Any]:
    """What `read_config` reads, for hundreds of them: lines that repeat from run to run are read once.

    Raises:
        UserError: it cannot be read, or it is not a mapping.
    """
    text = read_text(path)
    try:
        quick = _by_lines(text)
        return quick if quick is not None else mapping(path, yaml.load(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error


def _by_lines(text: str) -> dict[str, Any] | None:
    """Nested mappings of plain values, as config.yaml is written; None where a line says more than that."""
    top: dict[str, Any] = {}
    stack = [(-2, top)]  # (indentation of the key, the mapping under it)
    for line in text.splitlines():
        said = _LINE.fullmatch(line)
        if said is None:
            return None
        indent, key, value = len(said[1]), _plain(said[2]), said[3]
        while stack[-1][0] >= indent:
            stack.pop()
        above, node = stack[-1]
        if indent != above + 2:
            return None
        if not value:
            node[key] = {}
            stack.append((indent, node[key]))
            continue
        node[key] = _plain(value)
        if node[key] is _NOT_PLAIN:
            return None
    return None if _holds_nothing(top) else top


def _holds_nothing(node: Mapping[str, Any]) -> bool:
    """Whether a key has neither a value nor keys below it, which means null."""
    return not node or any(isinstance(value, dict) and _holds_nothing(value) for value in node.values())


_NOT_PLAIN = object()


@functools.lru_cache(maxsize=100_000)
def _plain(value: str) -> Any:
    if _VALUE.fullmatch(value) is None:
        return _NOT_PLAIN
    return yaml.load(value, Loader=_LOADER)


def _scalar(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError:
        return text


def _at(config: Mapping[str, Any], dotted: str) -> Any:
    node: Any = config
    for part in dotted.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


_FILTER = re.compile(r"([\w.@/-]+?)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)


def kept(runs: Sequence[Found], filters: Iterable[str]) -> list[Found]:
    """The runs that all filters let through: `algorithm=maml`, `lr>0.001`, `label=paper*`, `status!=done`.

    A key is a dotted path or enough of its end. Texts are compared with shell patterns; `a,b` lets both through.

    Raises:
        UserError: a filter has another form, or a key that no run has.
    """
    chosen = list(runs)
    for text in filters:
        parts = _FILTER.fullmatch(text)
        if parts is None:
            raise UserError(f"--filter: '{text}' is not of the form key=value (also !=, <, <=, >, >=)")
        key, sign, wanted = parts.groups()
        keys = key_of(key, {name: None for run in runs for name in run.settings}, "--filter")
        chosen = [run for run in chosen if any(_fits(run.settings.get(one), sign, wanted) for one in keys)]
    return chosen


def key_of(text: str, known: Mapping[str, Any], flag: str) -> list[str]:
    """The dotted paths that end with `text`, the shortest alone where it is one itself.

    Raises:
        UserError: there is none.
    """
    if text in known:
        return [text]
    ends = [name for name in known if name.endswith(f".{text}") and not name.startswith("task.train.")]
    if not ends:
        raise UserError(f"{flag}: no run has a setting '{text}'{nearest(text, known)}")
    return ends


def _fits(value: Any, sign: str, wanted: str) -> bool:
    import fnmatch

    if sign in ("=", "!="):
        said = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        equal = any(
            fnmatch.fnmatchcase(said, one) or _number(one) == _number(value) is not None for one in wanted.split(",")
        )
        return equal == (sign == "=")
    number, limit = _number(value), _number(wanted)
    if limit is None:
        raise UserError(f"--filter: '{wanted}' is not a number")
    if number is None:
        return False
    return {"<": number < limit, "<=": number <= limit, ">": number > limit, ">=": number >= limit}[sign]


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
