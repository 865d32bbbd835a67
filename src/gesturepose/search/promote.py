"""Hand a trial to the pipeline: its settings go into params.yaml, and the DAG trains exactly that."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError
from gesturepose.params import PARAMS_FILE, load_params, set_values
from gesturepose.provenance import project_root
from gesturepose.search.report import best_by_value
from gesturepose.search.storage import storage_reported
from gesturepose.search.study import SCORES, SETTINGS, Search, load_search, unlike_facts
from gesturepose.search.worker import PREPARED


@storage_reported()
def promote(name: str, number: int | None, *, dirty: bool, other: bool) -> list[str]:
    """Write the settings of a trial into params.yaml; comments and all other values stay.

    Args:
        number: of the trial; None takes the best, of a front the one with the highest declared value.
        dirty: write though params.yaml has changes that are not committed.
        other: write though the study is of other data, code or settings.

    Returns:
        Lines for the terminal: the trial, each change, and what else a bit-equal result takes.

    Raises:
        InputError: no such study or trial, no complete one, or one of the two refusals above.
    """
    root = project_root()
    os.chdir(root)
    search = load_search(name)
    trial = _chosen(search, number)
    if not dirty and _is_dirty(root):
        raise InputError(
            "has changes that are not committed", file=root / PARAMS_FILE, hint="Commit them, or add --dirty."
        )
    params = load_params(root / PARAMS_FILE)
    of_study = params.model_copy(update={"search": search.params.search})
    unlike = unlike_facts(search, of_study, PreparedData.open(PREPARED), root)
    if unlike and not other:
        raise InputError(
            f"the study {name} is of other {', '.join(unlike)} than this project has now",
            hint="`gesturepose search` begins one of the present; or add --other.",
        )
    settings = trial.user_attrs[SETTINGS]
    changes = set_values(settings, root / PARAMS_FILE)
    scores = trial.user_attrs[SCORES]
    lines = [f"trial {trial.number} of {name}: validation value {scores['value']:.6f}, kept epoch {scores['epoch']:g}"]
    lines += [f"  {change}" for change in changes] or ["  params.yaml has these values already"]
    if params.runtime.threads != search.params.search.threads:
        lines.append(
            f"The trial had {search.params.search.threads} threads, runtime.threads is {params.runtime.threads}: "
            "the last bits of the weights will differ."
        )
    if params.runtime.launcher != "python":
        lines.append("The trial was trained by one process, and runtime.launcher starts others: last bits will differ.")
    return lines


def _chosen(search: Search, number: int | None) -> FrozenTrial:
    if number is None:
        best = best_by_value(search)
        if best is None:
            raise InputError(f"the study {search.name} has no complete trial that holds what it has to")
        return best
    trials = search.study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        raise InputError(f"no trial {number} in the study {search.name}, which has {len(trials)}")
    if trials[number].state is not TrialState.COMPLETE:
        raise InputError(f"trial {number} is {trials[number].state.name.lower()}, and has no result to promote")
    return trials[number]


def _is_dirty(root: Path) -> bool:
    done = subprocess.run(
        ["git", "status", "--porcelain", "--", str(PARAMS_FILE)], cwd=root, capture_output=True, text=True, check=False
    )
    return bool(done.stdout.strip())
