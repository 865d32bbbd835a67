"""The page of the tables: reports/ablation/index.html, from the tables that git keeps."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from gesturepose.ablation.figure import tables_figure
from gesturepose.ablation.paper import TABLES, Entry, Table
from gesturepose.params import Params
from gesturepose.plots import figure_png
from gesturepose.result_page import ResultInputs, cautions, common_values, read_results, result_environment
from gesturepose.structures import SYNTHETIC_NAME
from gesturepose.wording import ENOUGH_SEEDS, mcnemar_text, p_value, points, verdict

# The settings that a cell depends on; `weak` has the fine-tuning of the trunks.
SECTIONS: Final = ("network", "loss", "augment", "runtime", "weak", "ablation")
METRICS: Final = {"accuracy": "accuracy", "pck_30": "PCK@30"}


def read_tables(params: Params, folder: Path) -> ResultInputs:
    """Read the tables in `folder` and draw the figure.

    Raises:
        InputError: a table is missing or broken.
    """
    return read_results(
        params,
        folder,
        "tables.csv",
        draw=lambda tables: figure_png(tables_figure(tables, {table.key: table.title for table in TABLES})),
        title="All rows",
        caption=lambda data: (
            f"Circles are measured here on {data['name']}, protocol {data['protocol']}, {data['videos']} videos of the "
            f"{data['split']} split; diamonds are the paper's numbers, of FPHA. A row may stand in several tables."
        ),
    )


def render_tables_page(inputs: ResultInputs) -> str:
    """The page as HTML; equal inputs give equal text."""
    settings, name = inputs.params.ablation, inputs.metrics["data"]["name"]
    synthetic = (
        "Synthetic data: these numbers say nothing about FPHA and cannot be compared with the paper's, which stand "
        "beside them for the order of the rows alone."
    )
    template = result_environment().get_template("ablation.html.j2")
    common = common_values(inputs, settings, SECTIONS)
    common["fingerprints"] = (*common["fingerprints"], *_other_data(inputs))
    return template.render(
        **common,
        banners=cautions(inputs, settings, of_synthetic=synthetic),
        whose="synthetic data" if name == SYNTHETIC_NAME else name,
        tables=[_table(inputs, table) for table in TABLES if table.key in inputs.metrics],
        weak=inputs.params.weak,
    )


def _other_data(inputs: ResultInputs) -> list[tuple[str, str]]:
    """The fingerprints of data that single rows have for themselves, such as crops made otherwise."""
    cells = pd.read_csv(io.BytesIO(inputs.cells), dtype=str)
    own = cells[cells["data"] != inputs.metrics["data"]["fingerprint"]]
    return [(f"prepared data of {row}", found["data"].iloc[0]) for row, found in own.groupby("row", sort=False)]


def _table(inputs: ResultInputs, table: Table) -> dict[str, Any]:
    """What the template says of a table."""
    found = inputs.metrics[table.key]
    of_table = inputs.table[inputs.table["table"] == table.key]
    lines = {str(line["row"]): line for _, line in of_table.iterrows()}
    level = 1 - inputs.params.ablation.confidence
    labels = {entry.row: entry.label for entry in table.entries}
    entries = [entry for entry in table.entries if entry.row in lines]
    return {
        "key": table.key,
        "title": table.title,
        "note": table.note,
        "missing": [entry.label for entry in table.entries if entry.row not in lines],
        "rows": [_row(entry, lines[entry.row], found[entry.row], labels, level) for entry in entries],
    }


def _row(
    entry: Entry, line: pd.Series[Any], found: Mapping[str, Any], labels: Mapping[str, str], level: float
) -> dict[str, Any]:
    seeds = int(line["seeds"])
    return {
        "label": entry.label,
        "seeds": seeds,
        "preliminary": seeds < ENOUGH_SEEDS,
        "scores": [_score(line, metric) for metric in METRICS],
        "paper": [_printed(entry.paper_accuracy), _printed(entry.paper_pck_30)],
        "tests": [
            {"other": labels[other], "lines": _lines(test, level, seeds)}
            for other, test in found.get("against", {}).items()
        ],
        "parameters": f"{line['parameters'] / 1e6:,.2f}\u00a0M",
        "gmac": f"{line['gmac_a_frame']:,.3f}",
    }


def _lines(test: Mapping[str, Any], level: float, seeds: int) -> list[str]:
    """What the tests of a row against another say: each metric, then McNemar's."""
    lines = []
    for metric, name in METRICS.items():
        if metric in test:
            found = test[metric]
            said = verdict(found["value"], significant=found["p_holm"] < level, seeds=seeds)
            interval = f"{points(found['low'])} to {points(found['high'])}"
            lines.append(f"{name} {points(found['value'])} points ({interval}), {p_value(found['p_holm'])}: {said}")
    lines.append(mcnemar_text(test["mcnemar"], test["mcnemar"]["p_holm"], other="the other", level=level))
    return lines


def _score(line: pd.Series[Any], metric: str) -> str:
    mean, std = float(line[f"{metric}_mean"]), float(line[f"{metric}_std"])
    if pd.isna(mean):
        return ""
    return f"{100 * mean:.1f}" + ("" if pd.isna(std) else f" ± {100 * std:.1f}") + "\u00a0%"


def _printed(value: str | None) -> str:
    return "" if value is None else f"{value}\u00a0%"
