"""All tables as one figure: each row's accuracy and PCK@30, mean and seeds, beside the paper's number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from gesturepose.plots import BLUE, INK, VERMILION, _styled

PANELS: Final = {"accuracy": "Gesture accuracy", "pck_30": "3D PCK@30 mm, root-aligned"}
_ROW_INCHES: Final = 0.27
_GAP: Final = 1.4  # rows between two tables, for the title of the lower one


@_styled
def tables_figure(tables: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """A line for each row of each table, from the top; a panel for each metric.

    Args:
        tables: as `result_tables` gives them.
        titles: of the tables, by their key.
    """
    places, heads = _places(tables)
    depth = places[-1] + 1.0
    figure = Figure(figsize=(9.4, _ROW_INCHES * depth + 1.1))
    axes_of_panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (metric, title) in zip(axes_of_panels, PANELS.items(), strict=True):
        _draw(axes, tables, metric, places)
        axes.set(title=title, ylim=(depth, -1.6))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(visible=False, axis="y")
    first = axes_of_panels[0]
    first.set_yticks(places, [str(label) for label in tables["label"]], fontsize="small")
    first.tick_params(axis="y", length=0)
    for key, place in heads.items():
        first.annotate(
            titles[key],
            (0.0, place - 1.0),
            xycoords=("axes fraction", "data"),
            ha="left",
            va="center",
            fontsize="small",
            color=INK,
            fontweight="bold",
        )
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _places(tables: pd.DataFrame) -> tuple[list[float], dict[str, float]]:
    """The vertical place of each line, and of each table's first one."""
    places: list[float] = []
    heads: dict[str, float] = {}
    place = 0.0
    for key in tables["table"]:
        if key not in heads:
            place += _GAP if heads else 0.0
            heads[key] = place
        places.append(place)
        place += 1.0
    return places, heads


def _draw(axes: Axes, tables: pd.DataFrame, metric: str, places: list[float]) -> None:
    mean, std = (tables[f"{metric}_{what}"].to_numpy(float) for what in ("mean", "std"))
    paper = tables[f"paper_{metric}"].to_numpy(float)
    at = np.array(places)
    ours, theirs = np.isfinite(mean), np.isfinite(paper)
    axes.errorbar(
        mean[ours],
        at[ours],
        xerr=np.nan_to_num(std[ours]),
        fmt="o",
        color=BLUE,
        markersize=4.5,
        capsize=2.5,
        linewidth=1.2,
        label="here: mean ± standard deviation over the seeds",
    )
    axes.plot(
        paper[theirs],
        at[theirs],
        "D",
        color=VERMILION,
        markersize=4,
        markerfacecolor="none",
        linestyle="none",
        label="the paper, on FPHA",
    )
