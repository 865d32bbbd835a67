"""What a study found: tables, figures and a page, from its storage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import optuna
import pandas as pd
from optuna.trial import FrozenTrial

from gesturepose.checkpoint import write_atomically
from gesturepose.data.prepared import PreparedData
from gesturepose.page import FigureFile
from gesturepose.params import SearchSettings
from gesturepose.result_page import result_environment
from gesturepose.search.figures import CAPTIONS, by_value, interactive_page, names_of, png_figures
from gesturepose.search.pruning import curve_of, replay
from gesturepose.search.study import (
    ERROR,
    FACTS,
    REQUEUED,
    SCORES,
    SETTINGS,
    Search,
    best_trials,
    complete_trials,
    metric_names,
    progress,
)
from gesturepose.structures import SYNTHETIC_NAME

ORDERS: Final = 500  # of the replay
_SCORES: Final = ("accuracy", "pck_30", "value", "label_cost")
_DECIMALS = 6  # of what is measured; settings keep all of theirs


def write_report(search: Search, data: PreparedData, folder: Path) -> list[Path]:
    """Write trials.csv, metrics.json, the figures and index.html; equal studies give equal bytes.

    Returns:
        The files.
    """
    table = trials_table(search)
    found = metrics_of(search, data)
    names = names_of(search.params.search.objective, len(complete_trials(search)))
    figures = png_figures(search.study, names)
    page = _page(search, data, table, found, figures)
    contents = {
        "trials.csv": table.to_csv(index=False, lineterminator="\n").encode(),
        "metrics.json": (json.dumps(found, indent=1) + "\n").encode(),
        "index.html": page.encode(),
        "plots.html": interactive_page(search.study, names).encode(),
        **{f"figures/{name}.png": png for name, png in figures.items()},
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def trials_table(search: Search) -> pd.DataFrame:
    """A row a trial that counts: number, state, epochs, accuracy, pck_30, value, label_cost, then what it tried."""
    rows = []
    for trial in _counting(search):
        scores = trial.user_attrs.get(SCORES, {})
        row: dict[str, Any] = {"number": trial.number, "state": trial.state.name, "epochs": len(curve_of(trial))}
        row |= {name: scores.get(name) for name in _SCORES}
        settings = trial.user_attrs.get(SETTINGS, {})
        row |= {
            key: json.dumps(value) if isinstance(value, list) else value
            for key, value in settings.items()
            if key in search.params.search.space
        }
        rows.append(row)
    return pd.DataFrame(rows).round(dict.fromkeys(_SCORES, _DECIMALS))


def metrics_of(search: Search, data: PreparedData) -> dict[str, Any]:
    """metrics.json: the data, the best trials, importances and, where the study has whole trials, the replay."""
    settings = search.params.search
    now = progress(search)
    found: dict[str, Any] = {
        "data": {"name": data.name, "fingerprint": data.fingerprint, "videos": len(data.split("validation"))},
        "study": {"name": search.name, "objective": settings.objective, "trials": now.done, "failed": now.failed},
        "best": [
            {"trial": trial.number, **_rounded(trial.user_attrs[SCORES]), "settings": trial.user_attrs[SETTINGS]}
            for trial in best_trials(search)
        ],
        "importances": _rounded(importances(search)),
    }
    trials = _counting(search)
    planned = [trial.user_attrs.get(SETTINGS, {}).get("train.epochs", search.params.train.epochs) for trial in trials]
    found["epochs"] = {"trained": sum(len(curve_of(trial)) for trial in trials), "of": sum(planned)}
    whole = complete_trials(search)
    if settings.objective == "value" and len(whole) == search.total > settings.random_trials:
        # No trial was pruned or failed, and the median can act. Other objectives prune by labels as well.
        found["replay"] = {pruner: _rounded(_replayed(whole, settings, pruner)) for pruner in ("median", "hyperband")}
    return found


def _counting(search: Search) -> list[FrozenTrial]:
    """Trials that have ended, but for those that were cut off and tried again."""
    return [
        trial
        for trial in search.study.get_trials(deepcopy=False)
        if trial.state.is_finished() and not trial.user_attrs.get(REQUEUED)
    ]


def _replayed(trials: list[FrozenTrial], settings: SearchSettings, pruner: Any) -> dict[str, dict[str, float]]:
    found = replay(
        [curve_of(trial) for trial in trials],
        [trial.user_attrs[SCORES]["value"] for trial in trials],
        settings.model_copy(update={"pruner": pruner}),
        orders=ORDERS,
        seed=settings.seed,
    )
    summary = {}
    for name, values in (("saved", found.saved), ("regret", found.regret)):
        low, high = found.interval(values)
        summary[name] = {"mean": float(values.mean()), "low": low, "high": high}
    return summary


def importances(search: Search) -> dict[str, float]:
    """Of each setting for the declared value, by Optuna's default evaluator; empty where it has too little to go by."""
    if len(complete_trials(search)) < 3:
        return {}
    try:
        found = optuna.importance.get_param_importances(by_value(search.study))
    except (RuntimeError, ValueError):
        return {}
    return {name: float(value) for name, value in found.items()}


def best_values(search: Search) -> dict[str, float]:
    """Metrics of the study's run: of the best trial by the declared value, and counts."""
    now = progress(search)
    values = {"trials/done": float(now.done), "trials/failed": float(now.failed)}
    if best := best_by_value(search):
        values |= {f"best/{name}": float(value) for name, value in best.user_attrs[SCORES].items()}
        values["best/trial"] = float(best.number)
    return values


def best_by_value(search: Search) -> FrozenTrial | None:
    """Of `best_trials` the one with the highest declared value."""
    return max(best_trials(search), key=lambda trial: trial.user_attrs[SCORES]["value"], default=None)


def best_words(search: Search) -> str:
    """best trial 7: value 0.412 (accuracy 0.500, PCK@30 0.324)"""
    best = best_by_value(search)
    if best is None:
        return "no trial holds what it has to" if complete_trials(search) else "no trial is complete"
    scores = best.user_attrs[SCORES]
    cost = f", label cost {scores['label_cost']:.3f}" if search.params.search.objective != "value" else ""
    return (
        f"best trial {best.number}: value {scores['value']:.3f} (accuracy {scores['accuracy']:.3f}, "
        f"PCK@30 {scores['pck_30']:.3f}{cost})"
    )


def _page(
    search: Search, data: PreparedData, table: pd.DataFrame, found: Mapping[str, Any], figures: Mapping[str, bytes]
) -> str:
    return (
        result_environment()
        .get_template("search.html.j2")
        .render(
            name=search.name,
            search=search.params.search,
            found=found,
            best=best_words(search),
            names=metric_names(search.params),
            table=table.astype(object).where(table.notna(), None).to_dict("records"),
            columns=list(table.columns),
            figures=[FigureFile(name.capitalize(), CAPTIONS[name], png) for name, png in figures.items()],
            synthetic=data.name == SYNTHETIC_NAME,
            facts=search.study.user_attrs[FACTS],
            errors=[
                (trial.number, error_line(str(trial.user_attrs[ERROR])))
                for trial in _counting(search)
                if ERROR in trial.user_attrs
            ],
        )
    )


def error_line(text: str) -> str:
    """What a trial's error says: a traceback at its end, our own messages at their beginning."""
    lines = text.strip().splitlines() or ["no reason was noted"]
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DECIMALS)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
