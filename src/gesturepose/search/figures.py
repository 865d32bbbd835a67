"""A study's figures: Optuna's own, as pictures and as one page that can be turned and read point by point."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any, Final

import optuna
import optuna.visualization as interactive
import optuna.visualization.matplotlib as pictures
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution
from optuna.study import Study
from optuna.trial import TrialState, create_trial

from gesturepose.plots import figure_png
from gesturepose.search.study import SCORES

CAPTIONS: Final = {
    "history": "The value of each trial, in the order in which they began.",
    "importances": "How much each setting decides whether a trial is among the best tenth by value (PED-ANOVA); "
    "of few trials a hint at most.",
    "parallel": "Each line is a trial, from setting to setting; darker ones are better.",
    "slices": "The value against each setting by itself.",
    "front": "Each complete trial's accuracy and PCK@30, and its labels where they are searched; none beats one on the "
    "front in all of them.",
    "curves": "The value after each epoch. Lines that end early were pruned.",
}
_LEAST = 3  # complete trials, below which importances and slices show nothing


def names_of(objective: str, complete: int) -> list[str]:
    """Which figures there are."""
    names = ["history"]
    if complete >= _LEAST:
        names += ["importances", "parallel", "slices"]
    return [*names, "front", *(["curves"] if objective == "value" else [])]


def png_figures(study: Study, names: list[str]) -> dict[str, bytes]:
    """Each figure as PNG; equal studies give equal bytes."""
    found = {}
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            drawn = _drawn(study, name, pictures)
        axes = drawn if not hasattr(drawn, "flat") else drawn.flat[0]
        figure: Figure = axes.figure
        figure.set_size_inches({"slices": 3.0 * len(figure.axes), "parallel": 16.0}.get(name, 9.0), 4.5)
        for axis in (axes.xaxis for axes in figure.axes if name == "slices"):
            labels = [label.get_text() for label in axis.get_ticklabels()]
            if any(label.startswith("'") for label in labels):  # categories, as Python writes them
                axis.set_ticks(axis.get_ticklocs(), [label.strip("'").replace("\\n", "\n") for label in labels])
        # As they come, long labels are cut off.
        if name in ("importances", "slices"):
            figure.set_layout_engine("tight" if name == "importances" else "constrained")
        if name == "parallel":
            figure.subplots_adjust(left=0.05, bottom=0.3)
        found[name] = figure_png(figure)
    return found


def interactive_page(study: Study, names: list[str]) -> str:
    """All figures on one page with the plotting library in it, so that it fetches nothing."""
    parts: list[str] = []
    for name in names:
        figure = _drawn(study, name, interactive)
        parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts, div_id=name))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>gesturepose: '
        f"{study.study_name}</title></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def by_value(study: Study) -> Study:
    """The study with complete trials' declared value for its one objective; numbers stay."""
    return _with_values(study, {"value": "value"})


def _drawn(study: Study, name: str, kind: Any) -> Any:
    study = with_short_choices(study, "<br>" if kind is interactive else "\n")
    if name == "curves":
        return kind.plot_intermediate_values(study)
    if name == "front":
        names = {"accuracy": "accuracy", "pck_30": "PCK@30"}
        costs = {trial.user_attrs[SCORES]["label_cost"] for trial in study.trials if SCORES in trial.user_attrs}
        if len(costs) > 1:
            names["label_cost"] = "label cost"
        return kind.plot_pareto_front(_with_values(study, names))
    study = by_value(study)
    if name == "history":
        return kind.plot_optimization_history(study)
    if name == "importances":
        return kind.plot_param_importances(study)
    if name == "parallel":
        return kind.plot_parallel_coordinate(study)
    return kind.plot_slice(study)


def with_short_choices(study: Study, line_end: str) -> Study:
    """The study with choices that are lists written line by line, so that labels of an axis stay apart."""

    def label(choice: Any) -> Any:
        if isinstance(choice, str) and choice.startswith("["):
            return line_end.join(map(str, json.loads(choice))) or "none"
        return choice

    found = optuna.create_study(study_name=study.study_name, directions=study.directions)
    for trial in study.get_trials():
        for key, kind in trial.distributions.items():
            if isinstance(kind, CategoricalDistribution):
                trial.distributions[key] = CategoricalDistribution([label(choice) for choice in kind.choices])
                trial.params[key] = label(trial.params[key])
        found.add_trial(trial)
    return found


def _with_values(study: Study, names: Mapping[str, str]) -> Study:
    """The study with complete trials' scores for values, whatever its own objective is.

    Args:
        names: what each score is called.
    """
    found = optuna.create_study(directions=["minimize" if name == "label_cost" else "maximize" for name in names])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found.set_metric_names(list(names.values()))
    for trial in study.trials:
        if trial.state is TrialState.COMPLETE and SCORES in trial.user_attrs:
            values = [trial.user_attrs[SCORES][name] for name in names]
            found.add_trial(create_trial(values=values, params=trial.params, distributions=trial.distributions))
        else:
            found.add_trial(create_trial(state=TrialState.FAIL))
    return found
