"""Label-efficiency curves: a metric over the share of labelled training videos, with the spread of the seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from gesturepose.plots import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILION, _styled
from gesturepose.wording import ENOUGH_SEEDS

SKY: Final = "#56B4E9"
COLOURS: Final = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK)  # Okabe and Ito's without yellow
PANELS: Final = {"pose": ("pck_30", "3D PCK@30 mm, root-aligned"), "gesture": ("accuracy", "Gesture accuracy")}
METHODS: Final = {  # method: label, line, marker
    "baseline": ("baseline", "--", "s"),
    "weak": ("weak supervision", "-", "o"),
    "teacher": ("teacher", "-.", "^"),
}
BAND: Final = (
    "Lines are means over the seeds, bands go from the lowest to the highest seed. Baselines are dashed; "
    "dotted lines have fewer than three seeds and are preliminary."
)


@_styled
def curve_figure(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """A panel for poses and one for gestures, a line for each label and method.

    Args:
        tables: by label (a revision; "" says none, where there is one table), columns direction, method, ratio (0–1),
            seed, metric and value (0–1) as in curves.csv. A direction that no table has gets no panel. With several
            labels the colour is the label's, with one it is the method's.

    Raises:
        ValueError: more labels than colours, or no row to draw.
    """
    if len(tables) > len(COLOURS):
        raise ValueError(f"{len(tables)} labels, and {len(COLOURS)} colours that can be told apart")
    everything = pd.concat(tables.values())
    panels = [name for name, (metric, _) in PANELS.items() if len(_rows(everything, name, metric))]
    if not panels:
        raise ValueError("no table has a row of pck_30 or accuracy")
    figure = Figure(figsize=(4.9 * len(panels), 4.2))
    for number, direction in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), number)
        metric, title = PANELS[direction]
        for row, (label, table) in enumerate(tables.items()):
            for column, method in enumerate(METHODS):
                colour = COLOURS[row if len(tables) > 1 else column]
                part = _rows(table, direction, metric)
                _draw(axes, part[part["method"] == method], label, method, colour)
        _finish(axes, title, sorted(_rows(everything, direction, metric)["ratio"].unique()))
    handles = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = min(len(handles), 2 * len(panels) if len(tables) > 1 else 3)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize="small", handlelength=3.5
    )
    return figure


def _rows(table: pd.DataFrame, direction: str, metric: str) -> pd.DataFrame:
    return table[(table["direction"] == direction) & (table["metric"] == metric)]


def _draw(axes: Axes, rows: pd.DataFrame, label: str, method: str, colour: str) -> None:
    if rows.empty:
        return
    by_ratio = rows.groupby("ratio")["value"].agg(["mean", "min", "max"]).sort_index()
    preliminary = rows.groupby("ratio")["seed"].nunique().min() < ENOUGH_SEEDS
    name, line, marker = METHODS[method]
    text = ": ".join(part for part in (label, name) if part) + (" (preliminary)" if preliminary else "")
    ratios = by_ratio.index.to_numpy(float)
    axes.plot(
        ratios, by_ratio["mean"], ":" if preliminary else line, color=colour, label=text, marker=marker, markersize=5
    )
    axes.fill_between(ratios, by_ratio["min"], by_ratio["max"], color=colour, alpha=0.15, linewidth=0)


def _finish(axes: Axes, title: str, ratios: list[float]) -> None:
    axes.set(title=title, xlabel="labelled share of the training videos")
    axes.set_xticks(ratios, [f"{100 * ratio:g}%" for ratio in ratios])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
