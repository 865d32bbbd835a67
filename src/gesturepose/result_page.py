"""What the pages of matrices have in common: inputs, cautions, where the numbers come from.

The pages hold no time, commit, path or host: equal tables give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment

from gesturepose.errors import InputError
from gesturepose.page import FigureFile, template_environment
from gesturepose.params import CellSettings, Params
from gesturepose.structures import SYNTHETIC_NAME
from gesturepose.wording import ENOUGH_SEEDS


@dataclass(frozen=True)
class ResultInputs:
    """Everything a page says."""

    params: Params
    table: pd.DataFrame  # curves.csv or tables.csv
    metrics: Mapping[str, Any]  # metrics.json
    cells: bytes  # cells.csv, whose digest stands for all weights
    figure: FigureFile


def read_results(
    params: Params,
    folder: Path,
    table_name: str,
    *,
    draw: Callable[[pd.DataFrame], bytes],
    title: str,
    caption: Callable[[Mapping[str, Any]], str],
) -> ResultInputs:
    """Read the tables in `folder` and draw the figure.

    Args:
        draw: the figure of the table, as PNG.
        caption: of the figure, from what metrics.json says of the data.

    Raises:
        InputError: a table is missing or broken.
    """
    try:
        table = pd.read_csv(folder / table_name)
        metrics = json.loads((folder / "metrics.json").read_bytes())
        cells = (folder / "cells.csv").read_bytes()
        png = draw(table)
    except FileNotFoundError as error:
        raise InputError("no such file", file=error.filename, hint="The collect stage writes it.") from None
    except (ValueError, KeyError) as error:
        raise InputError(f"broken tables: {error}", file=folder, hint="Run the collect stage again.") from None
    return ResultInputs(params, table, metrics, cells, FigureFile(title, caption(metrics["data"]), png))


def result_environment() -> Environment:
    """The templates of all these pages."""
    return template_environment("result_templates")


def common_values(inputs: ResultInputs, settings: CellSettings, sections: Sequence[str]) -> dict[str, Any]:
    """What every template says: figure, data, level of the tests, fingerprints and the settings of `sections`."""
    values = inputs.params.model_dump(mode="json")
    used = {section: values[section] for section in sections}
    return {
        "figure": inputs.figure,
        "data": inputs.metrics["data"],
        "settings": settings,
        "loss": inputs.params.loss,
        "confidence": f"{100 * settings.confidence:g}\u00a0%",
        "level": f"{1 - settings.confidence:.2g}",
        "resamples": f"{settings.bootstrap:,}",
        "fingerprints": (
            ("prepared data", inputs.metrics["data"]["fingerprint"]),
            ("settings of the cells", hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()),
            ("weights of all cells (cells.csv)", hashlib.sha256(inputs.cells).hexdigest()),
        ),
        "used": used,
    }


def cautions(inputs: ResultInputs, settings: CellSettings, *, of_synthetic: str) -> list[str]:
    """What a reader has to know before any number; `of_synthetic` is said of the generator's data."""
    data = inputs.metrics["data"]
    banners = [of_synthetic] if data["name"] == SYNTHETIC_NAME else []
    if data["split"] != "test":
        banners.append(f"Not the test split: these are {data['split']} videos.")
    if len(settings.seeds) < ENOUGH_SEEDS:
        banners.append(f"Preliminary: fewer than {ENOUGH_SEEDS} seeds ({len(settings.seeds)}).")
    return banners
