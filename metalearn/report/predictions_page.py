"""`metalearn predict --html`: one page with every image and what is predicted for it; images are in the page, nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metalearn.report.predictions import Record, percent, set_text, summary
from metalearn.sizes import count_text

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #3b7dd8; --faint: #757575; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
img { image-rendering: pixelated; width: 72px; height: 72px; object-fit: contain; border: 1px solid var(--line); }
.small img { width: 40px; height: 40px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: .8rem; }
.card { display: flex; gap: .7rem; border: 1px solid var(--line); border-radius: 6px; padding: .6rem; min-width: 0; }
.card > div { min-width: 0; flex: 1; } .name { color: var(--faint); font-size: .8rem; overflow-wrap: anywhere; }
.label { font-weight: 600; } .wrong .label { color: #c33; } .unsure .label { color: var(--faint); }
.row { display: grid; grid-template-columns: 7rem 1fr 3.6rem; gap: .4rem; font-size: .85rem; align-items: center; }
.row span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; } .row em { font-style: normal; text-align: right; }
.bar { background: var(--line); height: .5rem; border-radius: 3px; }
.bar i { display: block; height: 100%; background: var(--bar); border-radius: 3px; }
.class { display: flex; flex-wrap: wrap; gap: 3px; align-items: center; margin: .25rem 0; }
.class b { width: 9rem; font-weight: 500; overflow-wrap: anywhere; }
.text { overflow-wrap: anywhere; max-height: 12rem; overflow: auto; } .class .text { border: 1px solid var(--line); padding: 0 .4rem; }
li { margin: .2rem 0; }
"""
_BARS = 3
_SUPPORT = 12  # images of a class that are shown


def page(
    record: Record,
    pixels: Sequence[NDArray[np.uint8] | str | None],
    support: Mapping[str, Sequence[NDArray[np.uint8] | str]],
    top: int | None = None,
) -> str:
    """The whole page.

    Args:
        record: what --json prints.
        pixels: what the model saw of each prediction's image, uint8 [c, H, W], or the text; None of an unreadable one.
        support: some images of each class; empty where they are not at hand.
        top: labels with a bar of each image; None: three.
    """
    what = record.get("examples", "images")
    cards = "\n".join(_card(one, image, top or _BARS) for one, image in zip(record["predictions"], pixels, strict=True))
    learned = "\n".join(
        f'<div class="class"><b>{html.escape(name)}</b>{"".join(_image(one, name) for one in images[:_SUPPORT])}'
        f"{f'<span>and {len(images) - _SUPPORT} more</span>' if len(images) > _SUPPORT else ''}</div>"
        for name, images in support.items()
    )
    lines = "\n".join(f"<li>{html.escape(line.strip())}</li>" for line in summary(record))
    of_support = f'<h2>Learned from</h2>\n<div class="small">{learned}</div>' if learned else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Predictions for {count_text(len(record["predictions"]), what.removesuffix("s"))}</title><style>{_STYLE}</style></head>
<body><h1>Predictions for {count_text(len(record["predictions"]), what.removesuffix("s"))}</h1>
<ul>{lines}</ul>
{of_support}
<h2>Predictions</h2>
<p>{what.capitalize()} are shown as the model sees them.</p>
<div class="grid">
{cards}
</div></body></html>
"""


def _card(one: Mapping[str, Any], image: NDArray[np.uint8] | str | None, bars: int) -> str:
    name = (
        ""
        if isinstance(image, str) and one["image"] == image
        else f'<div class="name">{html.escape(one["image"])}</div>'
    )
    if image is None:
        return f'<div class="card unsure"><div><div class="label">unreadable</div>{html.escape(one["error"])}{name}</div></div>'
    kind = "unsure" if one["label"] is None else ""
    label = "abstains" if one["label"] is None else one["label"]
    rows = "".join(_bar(label_, p) for label_, p in list(one["probabilities"].items())[:bars])
    members = f'<div class="name">set: {html.escape(set_text(one["set"]))}</div>' if "set" in one else ""
    return (
        f'<div class="card {kind}">{"" if isinstance(image, str) else _image(image, one["image"])}<div>'
        f'{_image(image, "") if isinstance(image, str) else ""}<div class="label">{html.escape(label)} '
        f"{percent(one['probability'])}</div>{rows}{members}{name}</div></div>"
    )


def _bar(label: str, p: float) -> str:
    return (
        f'<div class="row"><span>{html.escape(label)}</span><div class="bar"><i style="width:{100 * p:.1f}%"></i></div>'
        f"<em>{percent(p)}</em></div>"
    )


def _image(pixels: NDArray[np.uint8] | str, text: str) -> str:
    """An image, which `text` stands for where it is not seen; or a text itself."""
    if isinstance(pixels, str):
        return f'<div class="text">{html.escape(pixels)}</div>'
    planes = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(planes)).save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data}">'
