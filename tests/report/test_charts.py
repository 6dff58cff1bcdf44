import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from kdbuild.report import charts


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.013, 0.087), (3, 3), (0, 0), (-5, 250_000), (1e-9, 2e-9)])
def test_ticks_span_the_values_and_are_few(low, high):
    ticks = charts.ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize("values", [[1], [0, 1, 2], [5, 64, 64, 64], list(range(1, 2000, 7)), [123_456, 999_999]])
def test_bins_hold_every_value_in_few_equal_steps(values):
    edges = charts.bins(values, 24)
    assert edges[0] <= min(values)
    assert edges[-1] > max(values)
    assert len({b - a for a, b in itertools.pairwise(edges)}) == 1
    assert len(edges) <= 27


def test_a_histogram_counts_every_value_once():
    svg = charts.histogram([1, 1, 2, 40, 64], x_name="tokens", y_name="answers", max_bins=7)
    told = [title.text for title in ET.fromstring(svg).iter("title")]
    assert told == ["0 to 9: 3", "10 to 19: 0", "20 to 29: 0", "30 to 39: 0", "40 to 49: 1", "50 to 59: 0", "60 to 69: 1"]


def test_a_curve_lies_inside_the_picture_with_smaller_values_lower():
    svg = charts.lines([(1, 3.0), (2, 1.0), (3, 0.5)], x_name="step", y_name="loss")
    points = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', svg).group(1).split()]
    assert all(0 <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in points)
    assert points[0][1] < points[1][1] < points[2][1]
    assert [x for x, _ in points] == sorted(x for x, _ in points)


def test_bars_are_as_long_as_their_values():
    root = ET.fromstring(charts.compare({"init": 4.0, "sft": 1.0, "teacher": 0.0}))
    widths = [float(bar.get("width")) for bar in root.iter("rect")]
    assert widths[0] == pytest.approx(4 * widths[1], rel=1e-3)
    assert widths[2] == 1.0


def test_names_are_escaped():
    svg = charts.compare({"<b>&": 1.0})
    assert "<b>" not in svg
    assert ET.fromstring(svg).find("text").text == "<b>&"


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (1234567, "1,234,567"), (2.0, "2"), (0.123456, "0.1235"), (2.5e-5, "2.5e-05")])
def test_numbers_are_short(value, shown):
    assert charts.number(value) == shown


def test_steps_and_counts_have_whole_ticks():
    assert charts.ticks(0, 1, 4, whole=True) == [0, 1]
    assert charts.ticks(1, 3, whole=True) == [1, 2, 3]
