"""HTML by construction: text is escaped unless it is ``Html``, and the page allows no script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_VOID = ("meta",)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy of the page: nothing is loaded, nothing runs."""

STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --card: #f6f7f9; --text: #1a1a1a;
  --dim: #5b6470; --line: #d5d9df; --grid: #dfe3e8; --accent: #0b62a8;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #7638c4; --c4: #5c3a00; --c5: #2a2a33; }
@media (prefers-color-scheme: dark) { :root { --back: #121418; --card: #1b1e24; --text: #e8e8e8;
  --dim: #a5adb8; --line: #343a44; --grid: #30353e; --accent: #6db8f2;
  --c0: #5aa9f5; --c1: #ff8a45; --c2: #4fe8b2; --c3: #9a68ff; --c4: #f7ee4d; --c5: #9b7f88; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1320px; padding: 1rem 1.2rem 3rem; background: var(--back);
  color: var(--text); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; margin: .4rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .3rem; padding-top: .6rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; overflow-wrap: anywhere; }
p { margin: .3rem 0 .7rem; max-width: 75ch; overflow-wrap: anywhere; }
a { color: var(--accent); } nav { display: flex; flex-wrap: wrap;
  gap: .1rem .9rem; }
.dim { color: var(--dim); }
.note { border-left: 4px solid var(--c1); background: var(--card); margin: .7rem 0;
  padding: .5rem .8rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr));
  gap: .9rem; align-items: start; }
div.grid + div.grid { margin-top: .9rem; }
figure { margin: 0; padding: .6rem .7rem .7rem; background: var(--card); border-radius: 8px;
  min-width: 0; }
figure h4 { margin: 0 0 .3rem; font-size: .93rem; overflow-wrap: anywhere; }
figure svg { display: block; width: 100%; height: auto; margin: 0 auto; max-width: 470px; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { margin-top: .35rem; font-size: .86rem; color: var(--dim); overflow-wrap: anywhere; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.wrap { white-space: normal; text-align: left; overflow-wrap: anywhere; }
pre { background: var(--card); border-radius: 8px; padding: .7rem; overflow-x: auto;
  font-size: .8rem; }
summary { cursor: pointer; }
"""


class Html(str):
    """Markup that is used as it stands; any other string is text."""


def element(tag: str, /, *children: str, **attributes: str) -> Html:
    """One element; text in it and in its attributes is escaped (``class_`` is ``class``)."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    if tag in _VOID:
        return Html(f"<{tag}{given}>")
    inner = "".join(c if isinstance(c, Html) else escape(c) for c in children)
    return Html(f"<{tag}{given}>{inner}</{tag}>")


def join(parts: Iterable[Html]) -> Html:
    """Markup one after the other."""
    return Html("".join(parts))


def paragraph(text: str, class_: str = "") -> Html:
    return element("p", text, **({"class_": class_} if class_ else {}))


def note_list(title: str, items: Iterable[str]) -> list[Html]:
    """A box with a list that a reader should not miss; nothing without items."""
    points = [element("li", text) for text in items]
    if not points:
        return []
    return [element("div", element("b", title), element("ul", *points), class_="note")]


def section(anchor: str, title: str, *children: Html) -> Html:
    """A part of the page that the navigation can point at."""
    return element("section", element("h2", title), *children, id=anchor)


def figure(title: str, drawing: Html, reading: str) -> Html:
    """A drawing with its title above and what to read off it below."""
    return element("figure", element("h4", title), drawing, element("figcaption", reading))


def grid(figures: Sequence[Html]) -> Html:
    """Figures beside each other where there is room, below each other on a phone."""
    return element("div", *figures, class_="grid")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], wrap_last: bool = False) -> Html:
    """A table that scrolls by itself where it is wider than the page."""
    top = element("tr", *(element("th", cell) for cell in head))
    body = []
    for row in rows:
        cells = [element("td", cell) for cell in row]
        if wrap_last:
            cells[-1] = element("td", row[-1], class_="wrap")
        body.append(element("tr", *cells))
    return element("div", element("table", top, *body), class_="scroll")


def details(title: str, *children: Html) -> Html:
    """Something that opens on a click, without script."""
    return element("details", element("summary", title), *children)


def page(title: str, lead: Sequence[Html], sections: Sequence[tuple[str, str, Html]]) -> str:
    """The whole document.

    Args:
        title: of page and window.
        lead: what comes before the navigation.
        sections: anchor, name in the navigation, markup.
    """
    links = [element("a", name, href=f"#{anchor}") for anchor, name, _ in sections]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    body = element(
        "body",
        element("h1", title),
        *lead,
        element("nav", *links),
        *(markup for _, _, markup in sections),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"
