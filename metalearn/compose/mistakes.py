"""What Hydra and OmegaConf raise when the user mistypes -> one line with the key, the value and the way out."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from metalearn.config.files import choices, conf_dir, content_of, node_of
from metalearn.config.moved import present_experiment
from metalearn.config.tree import dotted_keys
from metalearn.errors import nearest

GROUPS = ("algorithm", "backbone", "dataset", "task")  # the groups that have a node of their own
_PLUGINS = {  # what our presets build on -> the extra that brings it
    "hydra/launcher/submitit_slurm": "slurm",
    "hydra/launcher/submitit_local": "slurm",
    "hydra/launcher/ray": "ray",
}
_OTHER_WORDS = {  # what other programs call it -> what it is called here
    "learning_rate": ("lr",),
    "outer_lr": ("lr",),
    "meta_lr": ("lr",),
    "epochs": ("steps",),
    "iterations": ("steps",),
    "batch_size": ("meta_batch_size",),
    "way": ("ways",),
    "n_way": ("ways",),
    "shot": ("shots",),
    "k_shot": ("shots",),
    "query": ("queries",),
    "data": ("dataset",),
    "data_dir": ("root",),
    "data_root": ("root",),
    "model": ("backbone",),
    "network": ("backbone",),
    "opt": ("optimizer",),
    "output_dir": ("dir",),
}
MISTAKES = (HydraException, OmegaConfBaseException, YAMLError, RecursionError)

_UNKNOWN_KEY = re.compile(r"Could not (?:override|delete from config\.) '([^']+)'(?!\. The value)")
_SEVERAL_VALUES = re.compile(r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)'(?:\n| requires)")
_CHOSEN_TWICE = re.compile(r"Multiple values for ([^ ]+)\.")


def explanation(error: Exception, known_keys: Callable[[], list[str]]) -> str:
    """One line for the user; `known_keys` is asked for the settings there are only when a name was not found."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_such_choice(error.missing_cfg_file, error.options or [])
    if isinstance(error, RecursionError):
        return "a configuration file contains itself: through its defaults, or an alias in a list of its own"
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}' as key=value{_quoted(error.override)}"
    text = str(error)
    if found := _UNKNOWN_KEY.search(text):
        return no_such_setting(found[1], known_keys())
    if found := _SEVERAL_VALUES.search(text):
        return several_values(found[1])
    if found := _CHOSEN_TWICE.search(text):
        return f"{found[1]} is chosen already: write {found[1]}=NAME once, without a +; in a file's defaults: - override /{found[1]}: NAME"
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {_first_line(text)}" if error.full_key else _first_line(text)
    parts = [text if isinstance(error, YAMLError) else _first_line(text), _first_line(str(error.__cause__ or ""))]
    return ": ".join(part.rstrip(".:") for part in parts if part)


def no_such_setting(key: str, known: list[str]) -> str:
    """`known` are the settings of the chosen parts; the other choices' settings are looked through as well."""
    elsewhere = _settings_by_choice()
    if key in elsewhere and key not in known:
        parent, _, last = key.rpartition(".")
        beside = [name for name in known if name.startswith(f"{parent}.") and name.endswith(f"_{last}")]
        meant = f"; did you mean '{beside[0]}'?" if len(beside) == 1 else ""
        return f"no setting '{key}' here; it belongs to {_owners(elsewhere[key])}{meant}"
    if key in known:  # something above it was set to a single value
        parent = key.rpartition(".")[0]
        return f"no setting '{key}'" + (
            f": '{parent}' was set to a value that is no group of settings" if parent else ""
        )
    parent = key.rpartition(".")[0]
    if parent in known and not any(name.startswith(f"{parent}.") for name in known):
        return f"no setting '{key}': '{parent}' has one value, and no settings below it"
    found = similar_setting(key, known, list(elsewhere))
    return f"no setting '{key}'" + (f"; did you mean '{found}'?" if found else _beside(key, known))


def _beside(key: str, known: list[str]) -> str:
    """` (available in train: ...)`: what is in the group that `key` names, or in the first one above it that there is."""
    group = key
    while group := group.rpartition(".")[0]:
        if inside := [name.removeprefix(f"{group}.") for name in known if name.startswith(f"{group}.")]:
            break
    else:
        inside = known
    words = (name.partition(".")[0] for name in inside)
    return f" (available{f' in {group}' if group else ''}: {', '.join(dict.fromkeys(word for word in words if word[0] != '_'))})"


def similar_setting(key: str, known: list[str], elsewhere: Sequence[str] = ()) -> str | None:
    """What was meant by an unknown setting.

    In this order: one beside it whose name ends in its last word; one anywhere with the same last word, or with what other programs call
    it; a similar one beside it; a similar path.
    """
    parent, _, last = key.rpartition(".")
    candidates, others = (
        [name for name in names if name.startswith("hydra.") == key.startswith("hydra.") and name != key]
        for names in (known, elsewhere)
    )
    beside = [name for name in candidates if parent and name.rpartition(".")[0] == parent]
    if longer := [name for name in beside if name.endswith(f"_{last}")]:
        return min(longer, key=len)
    for word in (last, *_OTHER_WORDS.get(last, ())):
        same = [name for name in candidates if name.rpartition(".")[2] == word]
        if same := same or [name for name in others if name.rpartition(".")[2] == word]:
            return min(same, key=lambda name: (name not in beside, name.startswith(("sweep.", "eval.")), len(name)))
    if close := difflib.get_close_matches(last, [name.rpartition(".")[2] for name in beside], n=1, cutoff=0.6):
        return f"{parent}.{close[0]}"
    # Of a path that begins like many others, the beginning alone does not count.
    whole = difflib.get_close_matches(key, [*candidates, *others], n=1, cutoff=0.9 if beside else 0.6)
    return whole[0] if whole else None


def several_values(override: str) -> str:
    """What to say of `key=a,b` where one value is wanted."""
    if override.startswith("hydra"):
        return f"'{override}': Hydra's own settings take one value"
    return f"'{override}': several values need -m (metalearn train -m ...); a list is written [a,b]"


def _no_such_choice(missing: str, options: Sequence[str]) -> str:
    if missing in _PLUGINS:
        return f"this launcher needs a plugin of Hydra's: pip install '.[{_PLUGINS[missing]}]' in the checkout"
    first, _, rest = missing.partition("/")
    if first in GROUPS and ("/" in rest or rest.startswith((".", "~"))):
        there = f"; where its files lie is {first}.root=PATH{_yours(rest)}" if first == "dataset" else ""
        return f"'{first}={rest}': {first}= takes a name, not a path (available: {', '.join(choices(first))}){there}"
    group, _, name = missing.rpartition("/")
    kind = group.rpartition("/")[2] or "configuration"
    if first in ("experiment", "sweep") and kind in GROUPS and kind != first:
        return f"a file of {first}/ chooses '{kind}: {name}' in its defaults: it must be written - override /{kind}: {name}"
    if first == "experiment":
        return _no_such_experiment(rest, options)
    yours = _yours(name) if kind == "dataset" else ""
    return f"no {kind} named '{name}'{nearest(name, options)} (available: {', '.join(options) or 'none'}){yours}"


def _yours(path: str) -> str:
    """What to do where somebody names the folder of his images in place of a data set."""
    there = Path(path).expanduser().is_dir()
    return (
        f"; if '{path}' holds images of yours: metalearn data check {shlex.quote(path)} says how to train on them"
        if there
        else ""
    )


def _no_such_experiment(name: str, without_folder: Sequence[str]) -> str:
    """`without_folder` are the experiments that lie in no folder, which are all the user's own."""
    known = sorted({*choices("experiment"), *without_folder})
    if (present := present_experiment(name)) in known:
        return f"no experiment named '{name}'; it is called '{present}' now"
    if begin_so := [choice for choice in known if choice.startswith(name)]:
        return f"no experiment named '{name}'; these begin so: {', '.join(begin_so)}"
    if end_so := [choice for choice in known if choice.endswith(f"/{name}")]:
        return f"no experiment named '{name}'; these end so: {', '.join(end_so)}"
    folders = dict.fromkeys(f"{folder}/*" if folder else last for folder, _, last in (c.rpartition("/") for c in known))
    return f"no experiment named '{name}'{nearest(name, known)} (available: {', '.join(folders)})"


def _quoted(override: str) -> str:
    """How a path that Hydra's grammar refuses is written: in quotes of its own, which the shell leaves alone."""
    key, separator, value = override.partition("=")
    if not separator or not (key.endswith(("root", "dir")) or "/" in value) or not re.fullmatch(r"[\w.+/@-]+", key):
        return ""
    quoted = value.strip("'\"").replace("'", "\\'")
    for_the_shell = set('$`!"') & set(quoted)
    written = shlex.quote(f"{key}='{quoted}'") if for_the_shell else f"{key}=\"'{quoted}'\""
    return f": a path with such signs needs quotes: {written}"


def _owners(choices_with_it: list[str]) -> str:
    """`algorithm=maml`, or `algorithm=anil and 6 others`."""
    first, *others = choices_with_it
    return first + (f" and {len(others)} other{'' if len(others) == 1 else 's'}" if others else "")


def _settings_by_choice() -> dict[str, list[str]]:
    """Dotted path of every setting of every shipped algorithm, backbone, ... -> the choices that have it."""
    found: dict[str, list[str]] = {}
    for group in GROUPS:
        for name in choices(group):
            file = conf_dir() / group / f"{name}.yaml"
            if not file.is_file():  # a plug-in's
                continue
            for key in dotted_keys(node_of(group, content_of(file))):
                found.setdefault(f"{group}.{key}", []).append(f"{group}={name}")
    return found


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()
