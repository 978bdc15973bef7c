"""How durations and tables are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`, of seconds."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def age_text(seconds: float) -> str:
    """`3 days`, `2 h`, `5 min`, `10 s`."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Dotted key -> as much of its end as tells it from the others: `filters` of `backbone.filters`."""
    parts = {key: key.split(".") for key in keys}
    short = {}
    for key, words in parts.items():
        ends = (words[-count:] for count in range(1, len(words) + 1))
        mine = next(end for end in ends if sum(other[-len(end) :] == end for other in parts.values()) == 1)
        short[key] = ".".join(mine)
    return short


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], to_the_right: Sequence[bool] = ()) -> list[str]:
    """The lines of a Markdown table; line breaks and bars in its cells do not break it.

    Args:
        to_the_right: for each column, whether its cells are set to the right; by default none is.
    """
    aligned = to_the_right or [False] * len(head)
    return [
        _markdown_row(head),
        _markdown_row(["---:" if right else "---" for right in aligned]),
        *(_markdown_row(row) for row in rows),
    ]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(cell.replace('|', chr(92) + '|').split()) for cell in cells)} |"


def between(text: str, begin: str, end: str, lines: Sequence[str]) -> str:
    """`text` with `lines` in place of what stands between the lines `begin` and `end`.

    Raises:
        ValueError: one of the two is missing.
    """
    before, _, rest = text.partition(f"{begin}\n")
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the text lacks the lines {begin} and {end}")
    return "\n".join([before + begin, *lines, end]) + after
