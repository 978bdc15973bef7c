"""Writes docs/reference.md, the table of all settings, from the YAML files in conf/.

    python scripts/config_reference.py [--check]

Every choice of every group is composed, and the page says what `metalearn explain` says of its settings. --check writes nothing and exits with 1
where the page is out of date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

from metalearn.compose.composer import composer
from metalearn.compose.explain import Setting, below
from metalearn.compose.mistakes import GROUPS
from metalearn.config.comments import summary
from metalearn.config.files import choices
from metalearn.runs.directory import write_text

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"
# The parts of conf/train.yaml in the order of the page; `names` is left out, as runs fill it in.
PARTS = {
    "The whole run": ("seed", "device", "images", "features", "precision", "sweep_name"),
    "Training": ("train",),
    "Validation and test": ("eval",),
    "Sweeps": ("sweep",),
}
HEAD = """\
# Configuration reference

This page lists every setting. `python scripts/config_reference.py` writes it from the YAML files in `conf/`. Do not edit it by hand.
`metalearn explain KEY` prints the same for one setting, and says who set it in your composition. [configuration.md](configuration.md) says how a
configuration is composed.

- **default**: the value that the YAML file states. `${task.ways}` means: the value of `task.ways`.
- **allowed**: what `metalearn` accepts. A value outside is refused before anything is written.
- **other defaults**: choices that bring another default with them. Your own value on the command line comes before it.
- **used by**: the choices of the group that have the setting.
"""


Found = dict[str, list[Setting]]  # the choices of a group, each with its settings
Preferred = dict[str, dict[str, list[str]]]  # setting -> other default -> the choices that bring it


def page() -> str:
    """The whole page, from the files that are shipped."""
    with composer() as composing:
        standard = composing.described([])
        described = {
            (group, name): composing.described([f"{group}={name}"]) for group in GROUPS for name in choices(group)
        }
    preferred: Preferred = defaultdict(lambda: defaultdict(list))
    for (group, name), one in described.items():
        for key, setters in one.setters.items():
            for setter in setters:
                if setter.by == "preference" and setter.choice == f"{group}={name}":
                    preferred[key][_code(setter.value)].append(name)
    parts = [HEAD]
    for title, keys in PARTS.items():
        parts.append(f"## {title}\n\n{_general([one for key in keys for one in below(standard, key)], preferred)}")
    for group in GROUPS:
        found = {name: below(one, group) for (of, name), one in described.items() if of == group}
        parts.append(f"## `{group}`\n\n{_choices(group, found)}\n{_of_group(found, preferred)}")
    return "\n".join(parts)


def _general(settings: list[Setting], preferred: Preferred) -> str:
    rows = [
        [f"`{one.key}`", _escaped(one.meaning), _rule(one), _default(one), _others(one.key, preferred)]
        for one in settings
    ]
    return _table(["setting", "meaning", "allowed", "default", "other defaults"], rows)


def _choices(group: str, found: Found) -> str:
    return _table(["choice", "what it is"], [[f"`{group}={name}`", _escaped(summary(group, name))] for name in found])


def _of_group(found: Found, preferred: Preferred) -> str:
    """The settings of a group's choices; where several mean and allow the same, they share a row."""
    shared: dict[tuple[str, str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, settings in found.items():
        for one in settings:
            # The sources of a mixture have the settings of the data sets that they are.
            if not one.key.endswith("._target_") and not one.key.startswith("dataset.sources."):
                shared[one.key, _escaped(one.meaning), _rule(one)][_default(one)].append(name)
    rows = []
    for key, meaning, rule in sorted(shared, key=lambda row: (row[0].count("."), row[0])):
        defaults = shared[key, meaning, rule]
        users = sorted(name for names in defaults.values() for name in names)
        default = next(iter(defaults)) if len(defaults) == 1 else _by_choice(defaults)
        used = "all" if len(users) == len(found) else ", ".join(users)
        rows.append([f"`{key}`", meaning, rule, default, used, _others(key, preferred)])
    return _table(["setting", "meaning", "allowed", "default", "used by", "other defaults"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in [head, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def _others(key: str, preferred: Preferred) -> str:
    return _by_choice(preferred.get(key, {}))


def _by_choice(values: dict[str, list[str]]) -> str:
    return "; ".join(f"{value}: {', '.join(names)}" for value, names in values.items())


def _default(setting: Setting) -> str:
    """The value as its file writes it; that of the last file, where one is made from another."""
    stated = [one.value for one in setting.setters if one.by == "file"]
    value = setting.interpolation or (stated[-1] if stated else setting.value)
    return "date and time" if isinstance(value, str) and "${now:" in value else _code(value)


def _code(value: object) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _rule(setting: Setting) -> str:
    return _escaped((setting.allowed or "").replace(str(2**63), "2^63"))


def _escaped(text: str) -> str:
    """Plain text in a cell of a table."""
    return re.sub(r"([|*<])", r"\\\1", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    made = page()
    there = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if arguments.check:
        if made != there:
            sys.exit(f"{PAGE.relative_to(ROOT)} is out of date; python {Path(__file__).relative_to(ROOT)} writes it")
    elif made != there:
        write_text(PAGE, made)


if __name__ == "__main__":
    main()
