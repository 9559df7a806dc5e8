"""What reports are made of: escaped elements, charts that follow the page, colours, statistics."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from orchestrator.report.charts import COLOURS, Series, binned, line_chart, smooth
from orchestrator.report.compare import difference, interval, quantile_t
from orchestrator.report.page import STYLE, element, page, paragraph
from tests.support.html import HOSTILE, SVG_TAGS, Strict, parsed


def test_elements_escape_text_and_attributes() -> None:
    made = element("p", "<b>", element("b", "&"), title='"><script>')
    assert made == '<p title="&quot;&gt;&lt;script&gt;">&lt;b&gt;<b>&amp;</b></p>'
    parsed(page("<title>", [paragraph("a < b")], []))


def test_charts_escape_names_and_follow_the_page() -> None:
    series = [Series(name=f"{name} {n}", x=[0, 1], y=[0, n]) for n, name in enumerate(HOSTILE)]
    drawing = line_chart("<x>", "$y_$", series)
    parser = Strict()
    parser.feed(drawing)
    assert not parser.open and set(parser.tags) <= SVG_TAGS | {"svg"}
    texts = [data.strip() for _, data in parser.text]
    assert "<x>" in texts and "$y_$" in texts
    assert "currentColor" in drawing and "var(--c0" in drawing and 'id="figure' not in drawing


# Machado, Oliveira and Fernandes 2009: what protanopes, deuteranopes and tritanopes see, in linear
# RGB; the last is everybody else.
SEEN = (
    ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
)


def lab_of(colour: str, seen: tuple[tuple[float, ...], ...]) -> np.ndarray:
    """CIE L*a*b* (D65) of a colour as somebody sees it."""
    code = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(code > 0.04045, ((code + 0.055) / 1.055) ** 2.4, code / 12.92)
    linear = (np.array(seen) @ linear).clip(0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(to_xyz) @ linear / (0.9505, 1.0, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_stay_apart_for_colour_blind_readers(theme: str) -> None:
    """At least 15 units of L*a*b* apart (2 can just be told apart) and off the background."""
    light, dark = STYLE.split("@media")[:2]
    part = light if theme == "light" else dark.partition("}")[0]
    colours = re.findall(r"--c\d: (#\w{6})", part)
    (card,) = re.findall(r"--card: (#\w{6})", part)
    assert len(colours) == len(COLOURS) and (theme == "dark" or tuple(colours) == COLOURS)
    for seen in SEEN:
        labs = [lab_of(colour, seen) for colour in (*colours, card)]
        near = min(
            (float(np.linalg.norm(labs[i] - labs[j])), colours[i], (*colours, card)[j])
            for i in range(len(colours))
            for j in range(i + 1, len(labs))
        )
        assert near[0] >= 15, near


def test_long_series_are_averaged() -> None:
    x, y = binned(np.arange(10_000), np.where(np.arange(10_000) % 2, 1.0, 3.0))
    assert len(x) == len(y) <= 240 and np.allclose(y, 2, atol=0.05)
    assert binned(np.arange(3), np.array([1, math.nan, 2.0]))[0].tolist() == [0, 2]
    assert smooth(np.array([1.0, 2, 3, 4]), 3).tolist() == [1.5, 2, 3, 3.5]
    assert smooth(np.zeros(0), 3).tolist() == []


def test_intervals_are_students_and_welchs() -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees in (1, 2, 7, 30, 31, 60, 500):
        assert quantile_t(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=2e-3)
    assert quantile_t(0) == math.inf
    left, right = [44.3, 44.9, 45.8], [46.4, 45.9, 47.3, 46.8]
    mean, width = interval(left)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(left), scale=stats.sem(left))
    assert (mean - width, mean + width) == pytest.approx((low, high), abs=0.005)
    gap, width = difference(left, right)
    test = stats.ttest_ind(right, left, equal_var=False).confidence_interval(0.95)
    assert gap == pytest.approx((test.low + test.high) / 2)
    assert (test.high - test.low) / 2 <= width < (test.high - test.low) / 2 * 1.2, "never narrower"
    assert interval([math.nan, 3.0]) == (3.0, pytest.approx(math.nan, nan_ok=True))
    assert math.isnan(interval([])[0]) and math.isnan(difference([1.0], [2.0])[1])
