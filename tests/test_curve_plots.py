"""The figure of label-efficiency curves says what its tables say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection

from gesturepose.curve_plots import COLOURS, curve_figure
from gesturepose.plots import figure_png

METRICS = {"pose": "pck_30", "gesture": "accuracy"}


def table(seeds: int = 3, offset: float = 0.0, directions: tuple[str, ...] = ("pose", "gesture")) -> pd.DataFrame:
    rows = [
        {"direction": direction, "method": method, "ratio": ratio, "seed": seed, "metric": metric,
         "value": offset + ratio + 0.02 * seed**2 + 0.1 * (method == "weak") + 0.3 * (metric == "mean_error_mm")}
        for direction in directions
        for method in ("weak", "baseline")
        for ratio in (0.4, 0.15)
        for seed in range(seeds)
        for metric in (METRICS[direction], "mean_error_mm")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_lines_are_means_over_the_seeds_and_bands_their_range() -> None:
    figure = curve_figure({"one": table()})
    pose, gesture = figure.axes
    assert pose.get_title("left").startswith("3D PCK@30") and gesture.get_title("left") == "Gesture accuracy"
    drawn = {str(line.get_label()): line for line in pose.get_lines()}
    assert list(drawn) == ["one: baseline", "one: weak supervision"]
    expected = [[ratio, ratio + 0.02 * 5 / 3 + 0.1] for ratio in (0.15, 0.4)]
    np.testing.assert_allclose(drawn["one: weak supervision"].get_xydata(), expected)
    assert (drawn["one: baseline"].get_linestyle(), drawn["one: weak supervision"].get_linestyle()) == ("--", "-")
    bands = [band.get_paths()[0].vertices for band in pose.collections if isinstance(band, PolyCollection)]
    ranges = np.array([(points[:, 1].min(), points[:, 1].max()) for points in bands])
    np.testing.assert_allclose(ranges, [(0.15, 0.48), (0.25, 0.58)])


def test_revisions_have_colours_and_few_seeds_are_dotted_and_preliminary() -> None:
    figure = curve_figure({"one": table(), "two": table(seeds=2, offset=0.1)})
    lines = figure.axes[1].get_lines()
    labels = [str(line.get_label()) for line in lines]
    assert labels == [
        "one: baseline",
        "one: weak supervision",
        "two: baseline (preliminary)",
        "two: weak supervision (preliminary)",
    ]
    assert [line.get_linestyle() for line in lines] == ["--", "-", ":", ":"]
    assert [line.get_color() for line in lines] == [COLOURS[0], COLOURS[0], COLOURS[1], COLOURS[1]]
    assert lines[2].get_marker() != lines[3].get_marker()  # what the dots no longer tell apart
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == labels


def test_one_table_without_a_label_has_a_colour_for_each_method() -> None:
    lines = curve_figure({"": table()}).axes[0].get_lines()
    assert [str(line.get_label()) for line in lines] == ["baseline", "weak supervision"]
    assert lines[0].get_color() != lines[1].get_color()


def test_an_absent_direction_has_no_panel_and_nothing_at_all_is_refused() -> None:
    (axes,) = curve_figure({"one": table(directions=("gesture",))}).axes
    assert axes.get_title("left") == "Gesture accuracy"
    with pytest.raises(ValueError, match="no table has a row"):
        curve_figure({"one": table().assign(metric="auc")})
    with pytest.raises(ValueError, match="8 labels"):
        curve_figure({str(number): table() for number in range(8)})


def test_equal_tables_give_equal_bytes() -> None:
    assert figure_png(curve_figure({"one": table()})) == figure_png(curve_figure({"one": table()}))
