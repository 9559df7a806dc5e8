"""A page as a strict reader sees it, and names that an attacker would like."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "</style><svg onload=alert(3)>",
    "--><!-- ]]> &lt; $\\frac{a$ & <b>bold",
)
HTML_TAGS = set(
    "html head meta title style body h1 h2 h3 h4 p nav a b section div figure figcaption svg "
    "table tr th td details summary pre ul li".split()
)
SVG_TAGS = set("defs g image path use text rect clippath pattern".split())
VOID = ("meta",)


class Strict(HTMLParser):
    """Collects tags, attributes and text; every element must be closed in its place."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[tuple[str, str]] = []
        self.declarations = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> out of place"

    def handle_data(self, data: str) -> None:
        self.text.append((self.open[-1] if self.open else "", data))

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:80]}")

    def handle_decl(self, decl: str) -> None:
        self.declarations += 1

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"an unknown declaration: {data[:80]}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"a processing instruction: {data[:80]}")


def parsed(text: str) -> Strict:
    """A page that is well-formed, of known tags only, without script and without a request."""
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert not parser.open and parser.declarations == 1
    assert set(parser.tags) <= HTML_TAGS | SVG_TAGS, set(parser.tags) - HTML_TAGS - SVG_TAGS
    for tag, key, value in parser.attributes:
        assert not key.startswith("on"), f"<{tag} {key}={value[:40]}>"
        assert "javascript:" not in value.lower()
        if key in ("src", "href", "xlink:href"):
            assert value.startswith(("data:image/", "#")), f"<{tag} {key}={value[:40]}>"
        if key == "style":
            assert "url(" not in value.replace("url(#", ""), value
    styles = [data for tag, data in parser.text if tag == "style"]
    assert len(styles) == 1 and "url(" not in styles[0] and "@import" not in styles[0]
    return parser
