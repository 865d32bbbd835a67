"""A study's figures: Optuna's own, as pictures and as one page that can be turned and read point by point."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

import optuna
import optuna.visualization as interactive
import optuna.visualization.matplotlib as pictures
from matplotlib.figure import Figure
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from gesturepose.plots import figure_png
from gesturepose.search.study import SCORES

CAPTIONS: Final = {
    "history": "The value of each trial, in the order in which they began.",
    "importances": "How much of the spread of the values each setting explains (PED-ANOVA), over complete trials.",
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
    bare = _bare(study)
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            drawn = _drawn(bare, name, pictures)
        axes = drawn if not hasattr(drawn, "flat") else drawn.flat[0]
        figure: Figure = axes.figure
        figure.set_size_inches({"slices": 2.5 * len(figure.axes), "parallel": 16.0}.get(name, 9.0), 4.5)
        found[name] = figure_png(figure)
    return found


def interactive_page(study: Study, names: list[str]) -> str:
    """All figures on one page with the plotting library in it, so that it fetches nothing."""
    parts: list[str] = []
    bare = _bare(study)
    for name in names:
        figure = _drawn(bare, name, interactive)
        parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts, div_id=name))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>gesturepose: '
        f"{study.study_name}</title></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _bare(study: Study) -> Study:
    """The study without what its trials note of processes and times, which figures would show; numbers stay."""
    bare = optuna.create_study(directions=study.directions)
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished():
            bare.add_trial(create_trial(state=TrialState.FAIL))
            continue
        bare.add_trial(
            create_trial(
                state=trial.state,
                values=trial.values,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=trial.intermediate_values,
                user_attrs={SCORES: trial.user_attrs[SCORES]} if SCORES in trial.user_attrs else {},
                system_attrs={name: value for name, value in trial.system_attrs.items() if "constraint" in name},
            )
        )
    return bare


def _scores(study: Study) -> Study:
    """The study with complete trials' scores for values, whatever its own objective is; numbers stay."""
    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    labels = len({trial.user_attrs[SCORES]["label_cost"] for trial in complete}) > 1
    names = {"accuracy": "accuracy", "pck_30": "PCK@30"} | ({"label_cost": "label cost"} if labels else {})
    found = optuna.create_study(directions=["minimize" if name == "label_cost" else "maximize" for name in names])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found.set_metric_names(list(names.values()))
    for trial in study.trials:
        if trial.state is TrialState.COMPLETE:
            values = [trial.user_attrs[SCORES][name] for name in names]
            found.add_trial(create_trial(values=values, params=trial.params, distributions=trial.distributions))
        else:
            found.add_trial(create_trial(state=TrialState.FAIL))
    return found


def target_of(study: Study) -> Callable[[FrozenTrial], float] | None:
    """What to draw where a study's own value is not the one that counts: the declared value."""
    if len(study.directions) == 1 and study.direction is optuna.study.StudyDirection.MAXIMIZE:
        return None
    return lambda trial: float(trial.user_attrs[SCORES]["value"])


def _drawn(study: Study, name: str, kind: Any) -> Any:
    target, label = target_of(study), "value"
    if name == "history":
        return kind.plot_optimization_history(study, target=target, target_name=label)
    if name == "importances":
        return kind.plot_param_importances(study, target=target, target_name=label)
    if name == "parallel":
        return kind.plot_parallel_coordinate(study, target=target, target_name=label)
    if name == "slices":
        return kind.plot_slice(study, target=target, target_name=label)
    if name == "curves":
        return kind.plot_intermediate_values(study)
    return kind.plot_pareto_front(_scores(study))
