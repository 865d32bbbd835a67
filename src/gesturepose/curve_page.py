"""The page of the label-efficiency curves: reports/weak/index.html, from the tables that git keeps.

The page holds no time, commit, path or host: equal tables give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from gesturepose.curve_plots import BAND, METHODS, PANELS, curve_figure
from gesturepose.errors import InputError
from gesturepose.label_curves import HEADLINE, at
from gesturepose.page import FigureFile
from gesturepose.params import Params, WeakSettings
from gesturepose.plots import figure_png
from gesturepose.structures import SYNTHETIC_NAME
from gesturepose.wording import ENOUGH_SEEDS, mean_and_spread, p_value, points, verdict

SECTIONS: Final = ("network", "loss", "augment", "runtime", "weak")  # the settings that a cell depends on
OTHER_METRICS: Final = {"pck_20": "PCK@20", "pck_25": "PCK@25", "mean_error_mm": "mean error"}


@dataclass(frozen=True)
class CurveInputs:
    """Everything the page says."""

    params: Params
    curves: pd.DataFrame  # curves.csv
    metrics: Mapping[str, Any]  # metrics.json
    cells: bytes  # cells.csv, whose digest stands for all weights
    figure: FigureFile


def read_curves(params: Params, folder: Path) -> CurveInputs:
    """Read the tables in `folder` and draw the figure.

    Raises:
        InputError: a table is missing or broken.
    """
    try:
        curves = pd.read_csv(folder / "curves.csv")
        metrics = json.loads((folder / "metrics.json").read_bytes())
        cells = (folder / "cells.csv").read_bytes()
        png = figure_png(curve_figure({"": curves}))
    except FileNotFoundError as error:
        raise InputError("no such file", file=error.filename, hint="The collect stage writes it.") from None
    except (ValueError, KeyError) as error:
        raise InputError(f"broken tables: {error}", file=folder, hint="Run the collect stage again.") from None
    data = metrics["data"]
    caption = (
        "As in Fig. 4 (middle and right) of the paper, whose own values are drawn and not printed. "
        f"{BAND} Data: {data['name']}, protocol {data['protocol']}, split {data['split']}, {data['videos']} videos."
    )
    return CurveInputs(params, curves, metrics, cells, FigureFile("Label-efficiency curves", caption, png))


def render_curve_page(inputs: CurveInputs) -> str:
    """The page as HTML; equal inputs give equal text."""
    environment = Environment(
        loader=PackageLoader("gesturepose.compare", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    settings = inputs.params.weak
    values = inputs.params.model_dump(mode="json")
    used = {section: values[section] for section in SECTIONS}
    return environment.get_template("curves.html.j2").render(
        figure=inputs.figure,
        data=inputs.metrics["data"],
        banners=_banners(inputs),
        tables=[_table(inputs, direction) for direction in HEADLINE],
        panels=PANELS,
        methods=METHODS,
        other_metrics=OTHER_METRICS,
        settings=settings,
        loss=inputs.params.loss,
        confidence=f"{100 * settings.confidence:g}\u00a0%",
        level=f"{1 - settings.confidence:.2g}",
        resamples=f"{settings.bootstrap:,}",
        fingerprints=(
            ("prepared data", inputs.metrics["data"]["fingerprint"]),
            ("settings of the cells", hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()),
            ("weights of all cells (cells.csv)", hashlib.sha256(inputs.cells).hexdigest()),
        ),
        used=used,
    )


def _table(inputs: CurveInputs, direction: str) -> dict[str, Any]:
    """What the template says of a direction: a row for each ratio, and one for the area."""
    found = inputs.metrics[direction]
    curves = inputs.curves[inputs.curves["direction"] == direction]
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
            text["mcnemar"] = (
                f"McNemar: alone right on {test['only_first']}, the baseline on {test['only_second']} of "
                f"{test['videos']} videos, {p_value(test['p_holm'])}"
            )
        texts.append(text)
    return texts


def _banners(inputs: CurveInputs) -> list[str]:
    data, settings = inputs.metrics["data"], inputs.params.weak
    banners = []
    if data["name"] == SYNTHETIC_NAME:
        banners.append("Synthetic data: these numbers say nothing about FPHA and cannot be compared with the paper's.")
    if data["split"] != "test":
        banners.append(f"Not the test split: these are {data['split']} videos.")
    if len(settings.seeds) < ENOUGH_SEEDS:
        banners.append(f"Preliminary: fewer than {ENOUGH_SEEDS} seeds ({len(settings.seeds)}).")
    return banners
