"""The values that a study may try: Optuna's distributions, and the settings that a trial trains with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from gesturepose.data.labels import LABEL_KINDS, labelled_videos
from gesturepose.data.prepared import PreparedData
from gesturepose.params import Params, with_values

Values = Mapping[str, Any]  # settings by dotted key


def distributions(params: Params) -> dict[str, BaseDistribution]:
    """Of each dotted key of `search.space`, in its order."""
    found: dict[str, BaseDistribution] = {}
    for key, dimension in params.search.space.items():
        section, _, leaf = key.partition(".")
        if dimension.choices is not None:
            found[key] = CategoricalDistribution([_stored(choice) for choice in dimension.choices])
            continue
        assert dimension.low is not None and dimension.high is not None
        if isinstance(getattr(getattr(params, section), leaf), float):
            found[key] = FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.log)
        else:
            found[key] = IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return found


def settings_of(params: Params, suggested: Values) -> dict[str, Any]:
    """What a trial sets in params.yaml: `search.fixed`, and what Optuna suggested, as YAML has it."""
    found = dict(params.search.fixed)
    for key, value in suggested.items():
        choices = params.search.space[key].choices
        if choices is not None:
            value = next(choice for choice in choices if _stored(choice) == value)
        found[key] = value
    return found


def suggested_from(params: Params, stored: Values) -> dict[str, Any]:
    """The part of another study's suggestion that this space holds, for Optuna to try first."""
    space = distributions(params)
    found = {}
    for key, value in stored.items():
        if key in space:
            try:
                inside = space[key]._contains(space[key].to_internal_repr(value))
            except (ValueError, TypeError):
                inside = False
            if inside:
                found[key] = value
    return found


def trial_params(params: Params, settings: Values) -> Params:
    """The settings of a trial, on the threads of a trial.

    Raises:
        InputError: they do not fit together.
    """
    runtime = params.runtime.model_copy(update={"threads": params.search.threads, "launcher": "python"})
    return with_values(params.model_copy(update={"runtime": runtime}), settings)


def label_cost(params: Params, data: PreparedData) -> float:
    """Labels that a training uses: the share of the training videos that show theirs, the mean of both tasks."""
    videos, labels = data.split("train"), params.labels
    shown = [labelled_videos(videos, getattr(labels, kind), kind=kind, seed=labels.seed) for kind in LABEL_KINDS]
    return sum(map(len, shown)) / (2 * len(videos))


def _stored(choice: object) -> bool | int | float | str | None:
    """A choice as Optuna's storages can hold it."""
    if choice is None or isinstance(choice, (bool, int, float, str)):
        return choice
    return json.dumps(choice)
