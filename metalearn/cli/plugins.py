"""`--plugins A,B`, which every command takes: packages of the user's own that are trusted."""

from __future__ import annotations

from metalearn.errors import UserError


def without_plugins(argv: list[str]) -> list[str]:
    """Trusts what `--plugins A,B` names; returns the other words."""
    rest, words = [], iter(argv)
    for word in words:
        flag, _, names = word.partition("=")
        if flag != "--plugins":
            rest.append(word)
            continue
        names = names or next(words, "")
        if not names:
            raise UserError("--plugins needs the name of a package")
        from metalearn.config.plugins import trust

        trust([name for name in names.split(",") if name])
    return rest
