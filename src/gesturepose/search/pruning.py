"""When a trial ends early, and what that would have saved: a pruner replayed over the curves of whole trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from gesturepose.params import SearchSettings

Curve = Mapping[int, float]  # by epoch, from 1: the value, higher is better
CURVE = "gesturepose.curve"  # a trial's user attributes: its value after each epoch
COST = "gesturepose.label_cost"


def build_pruner(search: SearchSettings, epochs: int) -> BasePruner:
    """`search.pruner`, for trials of at most so many epochs.

    `median`: a trial ends whose best value so far is below the median of the whole trials' values at the same epoch,
    not while fewer than `random_trials` are whole. `hyperband`: successive halving in brackets, a third goes on each
    time. Both leave each trial `unpruned_epochs`.
    """
    if search.pruner == "median":
        return MedianPruner(n_startup_trials=search.random_trials, n_warmup_steps=search.unpruned_epochs)
    if search.pruner == "hyperband":
        return HyperbandPruner(min_resource=search.unpruned_epochs, max_resource=epochs, reduction_factor=3)
    return NopPruner()


class ValueStudy:
    """A study in memory that holds curves of one value alone, for pruners to look at.

    Optuna prunes neither a study of several objectives nor one whose objective is not what the epochs report.
    """

    def __init__(self, name: str, pruner: BasePruner) -> None:
        # Hyperband chooses a trial's bracket by the study's name and the trial's number.
        self._study = optuna.create_study(
            study_name=name, direction="maximize", pruner=pruner, sampler=RandomSampler(seed=0)
        )

    def begin(self) -> Trial:
        """The next trial, which `told_to_end` is asked about."""
        return self._study.ask()

    def end(self, trial: Trial, curve: Curve, state: TrialState) -> None:
        """The trial is done; one that was pruned or failed has no value."""
        whole = state is TrialState.COMPLETE
        self._study.tell(trial, max(curve.values()) if whole else None, state=state)


def told_to_end(trial: Trial, curve: Curve) -> bool:
    """Report the epochs of `curve` that are new to `trial`; whether it ends after the last of them."""
    ends = False
    reported = trial.storage.get_trial(trial._trial_id).intermediate_values
    for epoch in sorted(set(curve) - set(reported)):
        trial.report(curve[epoch], epoch)
        ends = trial.should_prune()
    return ends


def prunes(search: SearchSettings, epochs: int, name: str, trials: Sequence[FrozenTrial], number: int) -> bool:
    """Whether a study's running trial `number` ends now, by the curves that its trials have noted.

    A trial is held against those that use no more labels than it does: fewer labels are worth less by nature, and are
    what such a study looks for.

    Args:
        name: the study's.
        trials: all of the study's, in the order of their numbers.
    """
    cost = float(trials[number].user_attrs.get(COST, 1.0))
    study = ValueStudy(name, build_pruner(search, epochs))
    running = [study.begin() for _ in trials]
    for trial, known in zip(running, trials, strict=True):
        if known.number != number and float(known.user_attrs.get(COST, 1.0)) <= cost:
            told_to_end(trial, curve_of(known))
            if known.state.is_finished():
                study.end(trial, curve_of(known), known.state)
    return told_to_end(running[number], curve_of(trials[number]))


def curve_of(trial: FrozenTrial) -> dict[int, float]:
    """The value after each epoch that a trial has trained."""
    return {int(epoch): float(value) for epoch, value in trial.user_attrs.get(CURVE, {}).items()}


@dataclass(frozen=True)
class Replay:
    """What a pruner would have done to whole trials, in each of many random orders."""

    saved: NDArray[np.float64]  # [R] share of the epochs that would not have been trained
    regret: NDArray[np.float64]  # [R] best value of all minus best value of those that would have reached their end

    def interval(self, of: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
        low, high = np.quantile(of, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)


def replay(
    curves: Sequence[Curve], worth: Sequence[float], search: SearchSettings, *, orders: int, seed: int
) -> Replay:
    """Replay `search.pruner` over trials that were trained to their end.

    Args:
        curves: one of each trial.
        worth: what each trial is worth at its end.
        orders: R, random orders in which the trials come, one after the other.

    Raises:
        ValueError: there is no curve.
    """
    if not curves:
        raise ValueError("no curve to replay")
    random = np.random.default_rng(seed)
    epochs = max(max(curve) for curve in curves)
    total = sum(len(curve) for curve in curves)
    saved, regret = np.zeros(orders), np.zeros(orders)
    for draw in range(orders):
        study = ValueStudy(f"replay {draw}", build_pruner(search, epochs))
        trained, reached = 0, []
        for index in random.permutation(len(curves)):
            curve, trial = curves[index], study.begin()
            seen: dict[int, float] = {}
            state = TrialState.COMPLETE
            for epoch in sorted(curve):
                seen[epoch] = curve[epoch]
                if told_to_end(trial, seen) and epoch < max(curve):
                    state = TrialState.PRUNED
                    break
            study.end(trial, seen, state)
            trained += len(seen)
            if state is TrialState.COMPLETE:
                reached.append(worth[index])
        saved[draw] = 1 - trained / total
        regret[draw] = max(worth) - max(reached, default=-np.inf)
    return Replay(saved, regret)
