"""The page of the label-efficiency curves: reports/weak/index.html, from the tables that git keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from gesturepose.curve_plots import BAND, METHODS, PANELS, curve_figure
from gesturepose.label_curves import HEADLINE, at
from gesturepose.params import Params, WeakSettings
from gesturepose.plots import figure_png
from gesturepose.result_page import ResultInputs, cautions, common_values, read_results, result_environment
from gesturepose.wording import mcnemar_text, mean_and_spread, p_value, points, verdict

SECTIONS: Final = ("network", "loss", "augment", "runtime", "weak")  # the settings that a cell depends on
OTHER_METRICS: Final = {"pck_20": "PCK@20", "pck_25": "PCK@25", "mean_error_mm": "mean error"}


def read_curves(params: Params, folder: Path) -> ResultInputs:
    """Read the tables in `folder` and draw the figure.

    Raises:
        InputError: a table is missing or broken.
    """
    return read_results(
        params,
        folder,
        "curves.csv",
        draw=lambda curves: figure_png(curve_figure({"": curves})),
        title="Label-efficiency curves",
        caption=lambda data: (
            "As in Fig. 4 (middle and right) of the paper, whose own values are drawn and not printed. "
            f"{BAND} Data: {data['name']}, protocol {data['protocol']}, split {data['split']}, {data['videos']} videos."
        ),
    )


def render_curve_page(inputs: ResultInputs) -> str:
    """The page as HTML; equal inputs give equal text."""
    settings = inputs.params.weak
    synthetic = "Synthetic data: these numbers say nothing about FPHA and cannot be compared with the paper's."
    template = result_environment().get_template("curves.html.j2")
    return template.render(
        **common_values(inputs, settings, SECTIONS),
        banners=cautions(inputs, settings, of_synthetic=synthetic),
        tables=[_table(inputs, direction) for direction in HEADLINE],
        panels=PANELS,
        methods=METHODS,
        other_metrics=OTHER_METRICS,
    )


def _table(inputs: ResultInputs, direction: str) -> dict[str, Any]:
    """What the template says of a direction: a row for each ratio, and one for the area."""
    found = inputs.metrics[direction]
    curves = inputs.table[inputs.table["direction"] == direction]
    methods = [method for method in METHODS if method in found]
    rows = []
    for ratio in inputs.params.weak.ratios:
        of_ratio = curves[curves["ratio"] == ratio]
        rows.append(
            {
                "label": f"{100 * ratio:g}\u00a0%",
                "videos": int(of_ratio["labelled_videos"].iloc[0]),
                "scores": [_score(of_ratio, method, HEADLINE[direction]) for method in methods],
                "gains": _gains(found, methods, at(ratio), inputs.params.weak),
                "others": {
                    metric: [_score(of_ratio, method, metric) for method in methods]
                    for metric in OTHER_METRICS
                    if direction == "pose"
                },
            }
        )
    area = {
        "scores": [f"{100 * found[method]['area']:.1f}\u00a0%" for method in methods],
        "gains": _gains(found, methods, "area", inputs.params.weak),
    }
    return {"direction": direction, "methods": methods, "rows": rows, "area": area}


def _score(rows: pd.DataFrame, method: str, metric: str) -> str:
    values = rows[(rows["method"] == method) & (rows["metric"] == metric)]["value"].tolist()
    if metric != "mean_error_mm":
        return mean_and_spread(values)
    return mean_and_spread([value / 100 for value in values]).replace("%", "mm")


def _gains(found: Mapping[str, Any], methods: list[str], key: str, settings: WeakSettings) -> list[dict[str, str]]:
    """For each method but the baseline what its gain is, and what the tests say."""
    level = 1 - settings.confidence
    texts = []
    for method in methods[1:]:
        gain = found[method]["gain"][key]
        p = gain.get("p_holm", gain["p"])
        text = {
            "value": points(gain["value"]),
            "interval": f"{points(gain['low'])} to {points(gain['high'])}",
            "p": p_value(p),
            "verdict": verdict(gain["value"], significant=p < level, seeds=len(settings.seeds)),
            "mcnemar": "",
        }
        if test := gain.get("mcnemar"):
            text["mcnemar"] = mcnemar_text(test, test["p_holm"], other="the baseline", level=level)
        texts.append(text)
    return texts
