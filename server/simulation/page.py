"""Pieces of an HTML page that asks nothing of the network. Every text is escaped on its way."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "bullets",
    "cards",
    "escape",
    "figure",
    "plain",
    "quote",
    "section",
    "shown",
    "significant",
    "table",
    "terms",
    "write_page",
]

_CSS = """
:root { color-scheme: light dark;
  --ink: #1b1f24; --muted: #59616b; --grid: #dfe3e8; --paper: #ffffff; --raised: #f5f7f9;
  --good: #00694b; --bad: #a83a00;
  --s1: #6b7580; --s2: #0072b2; --s3: #b87a00; --s4: #cc5a00; --s5: #a8487f; --s6: #008a64; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e8eaed; --muted: #a3abb5; --grid: #343b44; --paper: #14171b; --raised: #1d2127;
  --good: #4fd0a5; --bad: #ff9a5c;
  --s1: #9aa4af; --s2: #56b4e9; --s3: #f0c04a; --s4: #f08238; --s5: #e39ac3; --s6: #35c295; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
a { color: var(--s2); }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 3rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--grid); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, li, dd { max-width: 46rem; overflow-wrap: anywhere; }
.lead { font-size: 1.15rem; font-weight: 600; }
.small, figcaption, .by { color: var(--muted); font-size: .875rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--grid); }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
td.n, th.n { text-align: right; }
td.n { white-space: nowrap; }
th .by, td .by { display: block; white-space: nowrap; font-weight: 400; }
.arms tbody th { min-width: 8.5rem; }
.helps, .not { font-weight: 600; white-space: nowrap; }
.helps { color: var(--good); }
.not { color: var(--bad); }
figure { margin: 1.5rem 0; max-width: 48rem; }
figure svg { display: block; width: 100%; min-width: 33rem; height: auto; }
figure svg * { stroke-linejoin: round; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", sans-serif !important; }
.texts { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); }
.texts > div { background: var(--raised); border-radius: .4rem; padding: .75rem 1rem; }
.texts h4 { margin: 0 0 .4rem; font-size: .875rem; color: var(--muted); }
blockquote { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.sample { margin-bottom: 2.5rem; }
.pictures td { vertical-align: middle; max-width: 9rem; }
.pictures img { display: block; image-rendering: pixelated; border-radius: .3rem; }
.prompt { border-left: 3px solid var(--s2); padding-left: .75rem; margin: .5rem 0 1rem; }
details { margin-top: .75rem; font-size: .9rem; }
dt { font-weight: 600; margin-top: .75rem; }
dd { margin: 0; }
.plan { display: grid; gap: 0 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); }
.plan dt { color: var(--muted); font-size: .875rem; font-weight: 400; }
mark { background: none; color: var(--bad); font-weight: 600; }
.threat { background: var(--raised); border-left: 3px solid var(--s3); padding: .75rem 1rem;
  max-width: 48rem; margin: 1rem 0; }
code { overflow-wrap: anywhere; font-size: .85em; }
@media (max-width: 40rem) { th, td { padding: .35rem .45rem; } .lead { font-size: 1.05rem; } }
"""


def write_page(title: str, parts: Iterable[str], path: Path) -> None:
    """Write one HTML file of its own.

    Args:
        title: HTML already.
        parts: HTML; empty ones are left out.
        path: is replaced if it is there.
    """
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )
    path.write_text(page, encoding="utf-8", errors="replace")  # data may hold half characters


def cards(texts: Mapping[str, str]) -> str:
    """Texts beside each other, by their titles."""
    cards = (f"<div><h4>{escape(title)}</h4>{quote(text)}</div>" for title, text in texts.items())
    return f'<div class="texts">{"".join(cards)}</div>'


def section(title: str, body: str) -> str:
    """A section; its body is HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def figure(svg: str, caption: str) -> str:
    """A drawing, if there is one, and what it shows."""
    drawn = f'<div class="scroll" tabindex="0">{svg}</div>' if svg else ""
    return f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table of cells that are HTML already; the first of each row is its heading."""
    right = set(numbers)
    kinds = [' class="n"' if i in right else "" for i in range(len(heads))]
    top = "".join(f'<th scope="col"{k}>{escape(h)}</th>' for h, k in zip(heads, kinds, strict=True))
    lines = []
    for first, *cells in rows:
        rest = "".join(f"<td{k}>{c}</td>" for c, k in zip(cells, kinds[1:], strict=True))
        lines.append(f'<tr><th scope="row" dir="auto"{kinds[0]}>{first}</th>{rest}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def bullets(lines: Iterable[str]) -> str:
    """A list; empty where there is nothing in it."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def terms(said: Mapping[str, str], kind: str = "terms") -> str:
    """What words mean, or settings and their values."""
    pairs = (f"<div><dt>{escape(t)}</dt><dd>{escape(d)}</dd></div>" for t, d in said.items())
    return f'<dl class="{kind}">{"".join(pairs)}</dl>'


def shown(value: Any) -> str:
    """A text, or a picture: ``{"png": base64, "said": what it shows}``."""
    if not isinstance(value, Mapping):
        return escape(value)
    source = f"data:image/png;base64,{value['png']}"
    return f'<img src="{source}" alt="{escape(value["said"])}" width="96" height="96">'


def quote(text: object) -> str:
    """A text as it stands."""
    return f'<blockquote dir="auto">{escape(text)}</blockquote>'


def plain(value: object) -> str:
    """A setting's value."""
    return significant(value) if isinstance(value, float) else str(value)


def significant(value: float | None) -> str:
    """Three digits."""
    return "–" if value is None else f"{value:.3g}".replace("inf", "∞")


def escape(text: object) -> str:
    """A text as HTML."""
    return html.escape(str(text))
