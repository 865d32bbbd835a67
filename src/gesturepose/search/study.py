"""A study: what makes its trials comparable, the next trial to train, and what becomes of trials whose process died.

A study's name holds the fingerprint of data, code and settings. With others a study is another one beside it, which
first tries the best of the one before.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final, Literal

import optuna
import psutil
import torch
from numpy.random import SeedSequence
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import ValidationError

from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError
from gesturepose.experiment import uses_gpu
from gesturepose.params import TRIAL_SECTIONS, Params
from gesturepose.processes import ProcessIdentity
from gesturepose.provenance import file_digest, read_pipeline
from gesturepose.search.pruning import CURVE
from gesturepose.search.space import distributions, suggested_from
from gesturepose.search.storage import (
    DATABASE_ERRORS,
    STORAGE_ERRORS,
    host_lock,
    open_storage,
    shown_name,
    storage_error,
    storage_name,
)
from gesturepose.tracking.studies import EndedTrial

PREFIX: Final = "gesturepose"
FACTS, PARAMS = "gesturepose.fingerprint", "gesturepose.params"  # a study's attributes
SETTINGS, SCORES, ERROR = "gesturepose.settings", "gesturepose.scores", "gesturepose.error"  # a trial's
REQUEUED, ATTEMPT = "gesturepose.requeued", "gesturepose.attempt"
SEEN = "gesturepose.seen"  # when a running trial's process last said that it lives, seconds since 1970
_STAGES = ("backbone", "finetune", "train")  # whose code a trial runs
_FILES = ("trial.py", "space.py", "pruning.py", "study.py")  # of this package: what else decides a trial's result
_RUNTIME = ("device", "precision", "channels_last", "compile", "deterministic")  # what changes bits, beside threads
FREE_RUNTIME = ("checkpoint_iterations", "workers")  # what does not
_NOT_COMPARED = ("trials", "warm_start")  # of section search
_ATTEMPTS = 3  # a trial that takes its process down so often is not tried again
_OWNERLESS_S = 60.0  # a trial gets its owner right after it begins
_SILENT_S = 600.0  # after which another machine is taken for dead; it says once a minute that it lives


@dataclass(frozen=True)
class Search:
    """A study, open."""

    study: Study
    name: str
    params: Params  # as they were when the study began

    @property
    def total(self) -> int:
        return self.params.search.trials


@dataclass(frozen=True)
class Progress:
    """How far a study is."""

    done: int  # trials that count: complete, pruned, or failed for good
    running: tuple[int, ...]  # the processes that train a trial now, 0 where that is not known
    failed: int
    states: Mapping[str, int]


def facts_of(params: Params, data: PreparedData, root: Path, *, order: str = "") -> dict[str, str]:
    """Fingerprints of what makes trials comparable: data, code, settings, libraries; and what is said of the order."""
    pipeline = read_pipeline(root)
    values = params.model_dump(mode="json")
    searched = {*params.search.space, *params.search.fixed}
    settings = {
        section: {leaf: value for leaf, value in values[section].items() if f"{section}.{leaf}" not in searched}
        for section in TRIAL_SECTIONS
    }
    settings["runtime"] = {name: values["runtime"][name] for name in _RUNTIME}
    settings["search"] = {name: value for name, value in values["search"].items() if name not in _NOT_COMPARED}
    if order:  # a study of so many trials, and no other
        settings["search"]["trials"] = params.search.trials
    own = [file_digest(Path(__file__).with_name(name)) for name in _FILES]
    return {
        "data": data.fingerprint,
        "code": _digest([*(pipeline.code_fingerprint(stage) for stage in _STAGES), *own]),
        "first weights": pipeline.data_fingerprint("backbone"),
        "settings": _digest(settings),
        "libraries": f"torch {torch.__version__} ({'cuda' if uses_gpu(params.runtime) else 'cpu'}), "
        f"optuna {optuna.__version__}",
        "order": order,
    }


def unlike_facts(search: Search, params: Params, data: PreparedData, root: Path) -> list[str]:
    """What a study is of that is different now: data, code, settings, ..."""
    known = search.study.user_attrs[FACTS]
    present = facts_of(params, data, root, order=known["order"])
    return [fact for fact in present if present[fact] != known.get(fact)]


def directions(params: Params) -> tuple[Literal["minimize", "maximize"], ...]:
    """What Optuna does with each of a trial's values (see `SearchSettings.objective`)."""
    if params.search.objective == "value":
        return ("maximize",)
    if params.search.objective == "cheapest":
        return ("minimize",)
    return ("maximize", "maximize", "minimize") if _searches_labels(params) else ("maximize", "maximize")


def metric_names(params: Params) -> list[str]:
    """The names of a trial's values, for Optuna's tools."""
    names = {"value": ["value"], "cheapest": ["label cost"], "front": ["accuracy", "PCK@30", "label cost"]}
    return names[params.search.objective][: len(directions(params))]


def values_of(params: Params, scores: Mapping[str, float]) -> list[float]:
    """A trial's values, from its scores."""
    keys = {"value": ["value"], "cheapest": ["label_cost"], "front": ["accuracy", "pck_30", "label_cost"]}
    return [scores[key] for key in keys[params.search.objective][: len(directions(params))]]


def open_study(params: Params, data: PreparedData, root: Path, *, order: str = "") -> Search:
    """The study of these settings on this data with this code, found or created.

    Args:
        order: says of a study that its trials come in an order of its own, so that it is no other's; such a study does
            not begin with the best of the latest other one (`search.warm_start`).

    Raises:
        InputError: the storage does not answer.
    """
    if not data.split("validation"):
        raise InputError(
            "the prepared data has no validation video to score trials on",
            file=data.folder,
            hint="Set data.validation higher.",
        )
    facts = facts_of(params, data, root, order=order)
    name = f"{PREFIX}-{_digest(facts)[:12]}"
    storage = open_storage()
    try:
        with host_lock():
            study = optuna.create_study(
                study_name=name, storage=storage, directions=list(directions(params)), load_if_exists=True
            )
            if PARAMS not in study.user_attrs:  # new, or its maker was killed
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ExperimentalWarning)
                    study.set_metric_names(metric_names(params))
                study.set_user_attr(FACTS, facts)
                for values in () if order else _best_of_another(study, params):
                    study.enqueue_trial(values, skip_if_exists=True)
                study.set_user_attr(PARAMS, params.model_dump_json())
    except STORAGE_ERRORS as error:
        raise storage_error(error) from error
    return Search(study, name, params)


def load_search(name: str, *, trials: int | None = None) -> Search:
    """The study of that name, with the settings that it began with.

    Raises:
        InputError: there is none, another program made it, or the storage does not answer.
    """
    storage = open_storage()
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        names = [known for known in optuna.get_all_study_names(storage) if known.startswith(f"{PREFIX}-")]
        there = f"there are {', '.join(names)}" if names else "there is none yet: `gesturepose search` begins one"
        raise InputError(f"no study {name!r} in {shown_name()}; {there}") from None
    except STORAGE_ERRORS as error:
        raise storage_error(error) from error
    if PARAMS not in study.user_attrs:
        raise InputError(f"the study {name!r} was not made by `gesturepose search`")
    try:
        params = Params.model_validate_json(study.user_attrs[PARAMS])
    except ValidationError as error:
        raise InputError(
            f"the study {name!r} is of another version of the settings: {error.errors()[0]['msg']}",
            hint="`gesturepose search` begins one of the present version.",
        ) from None
    if trials is not None:
        params = params.model_copy(update={"search": params.search.model_copy(update={"trials": trials})})
    return Search(study, name, params)


def next_trial(search: Search) -> Trial | None:
    """The next trial of this process; None where the study has all its trials, done or running."""
    with host_lock():
        requeue_dead(search)
        now = progress(search)
        if now.done + len(now.running) >= search.total:
            return None
        # A sampler anew for each trial: what it draws depends on the trials before, and on no process's history.
        search.study.sampler = TPESampler(
            seed=int(SeedSequence([search.params.search.seed, now.done + len(now.running)]).generate_state(1)[0]),
            n_startup_trials=search.params.search.random_trials,
        )
        trial = search.study.ask(fixed_distributions=distributions(search.params))
        trial.set_user_attr(SEEN, time.time())
        for key, value in ProcessIdentity.of(psutil.Process()).tags().items():
            trial.set_user_attr(key, value)
        if _begun_before(search, trial.number) >= search.total:  # another machine took the last one at the same moment
            trial.set_user_attr(REQUEUED, True)
            search.study.tell(trial, state=TrialState.FAIL)
            return None
        return trial


def _begun_before(search: Search, number: int) -> int:
    """Trials of a lower number that count."""
    trials = search.study.get_trials(deepcopy=False)[:number]
    return sum(trial.state is not TrialState.WAITING and not trial.user_attrs.get(REQUEUED) for trial in trials)


@contextmanager
def alive(trial: Trial) -> Iterator[None]:
    """Say once a minute that the process of a running trial lives, for other machines."""
    ended = Event()

    def tell() -> None:
        while not ended.wait(60.0):
            # Whether it lasts, the training itself finds out; and whether another machine has taken the trial over.
            with suppress(*DATABASE_ERRORS, OSError, UpdateFinishedTrialError):
                trial.set_user_attr(SEEN, time.time())

    thread = Thread(target=tell, name="life of a trial", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def all_searches() -> list[Search]:
    """Every study of the storage that a search made; none where there is no storage yet."""
    name = storage_name()
    if "://" not in name and not Path(name).exists():
        return []
    found = []
    for study in optuna.get_all_study_names(open_storage()):
        if study.startswith(f"{PREFIX}-"):
            try:
                found.append(load_search(study))
            except InputError:  # of another version
                continue
    return found


def dead_trials(search: Search) -> list[FrozenTrial]:
    """Running trials of this machine whose process is gone, and of others that have been silent for long."""
    here = ProcessIdentity.of(psutil.Process())

    def dead(trial: FrozenTrial) -> bool:
        owner = ProcessIdentity.from_tags(trial.user_attrs)
        if owner is None:
            begun = trial.datetime_start or datetime.now()
            return (datetime.now() - begun).total_seconds() > _OWNERLESS_S
        if (owner.host, owner.boot) == (here.host, here.boot):
            return owner.is_dead()
        return owner.is_dead() or time.time() - float(trial.user_attrs.get(SEEN, 0.0)) > _SILENT_S

    return [trial for trial in search.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if dead(trial)]


def requeue_dead(search: Search) -> None:
    """End `dead_trials`, and put their values first in line. Call under `host_lock`."""
    for trial in dead_trials(search):
        requeue(search, trial, "its process ended without a word", counts=True)


def requeue(search: Search, trial: FrozenTrial, reason: str, *, counts: bool) -> bool:
    """End a running trial as failed, and have it tried again; not for ever, where it `counts`.

    Returns:
        Whether it is tried again.
    """
    study, attempt = search.study, int(trial.user_attrs.get(ATTEMPT, 1))
    again = attempt < _ATTEMPTS or not counts
    try:
        storage = study._storage
        storage.set_trial_user_attr(trial._trial_id, ERROR, reason)
        storage.set_trial_user_attr(trial._trial_id, REQUEUED, again)
        study.tell(trial.number, state=TrialState.FAIL)
    except (RuntimeError, ValueError):  # another host was quicker
        return again
    values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    if again and values:
        study.enqueue_trial(values, user_attrs={ATTEMPT: attempt + counts})
    return again


def progress(search: Search) -> Progress:
    """Counted from the storage."""
    trials = search.study.get_trials(deepcopy=False)
    counting = [trial for trial in trials if trial.state.is_finished() and not trial.user_attrs.get(REQUEUED)]
    states: dict[str, int] = {}
    for trial in trials:
        states[trial.state.name] = states.get(trial.state.name, 0) + 1
    return Progress(
        done=len(counting),
        running=tuple(
            int(trial.user_attrs.get("gesturepose.pid", 0)) for trial in trials if trial.state is TrialState.RUNNING
        ),
        failed=sum(trial.state is TrialState.FAIL for trial in counting),
        states=states,
    )


def ended_trials(search: Search) -> list[EndedTrial]:
    """What MLflow has to know of the trials that have ended."""
    return [
        EndedTrial(
            trial.number,
            trial.state.name,
            killed=bool(trial.user_attrs.get(REQUEUED)),
            error=str(trial.user_attrs.get(ERROR, "")),
        )
        for trial in search.study.get_trials(deepcopy=False)
        if trial.state.is_finished()
    ]


def complete_trials(search: Search) -> list[FrozenTrial]:
    """Trials with all their values, those first that Optuna takes for the best."""
    found = search.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found = [trial for trial in found if SCORES in trial.user_attrs]
    best = {trial.number for trial in best_trials(search)}
    return sorted(found, key=lambda trial: (trial.number not in best, -trial.user_attrs[SCORES]["value"], trial.number))


def best_trials(search: Search) -> list[FrozenTrial]:
    """The best trial as `optuna best-trial` gives it, or the trials on the front; none where none is feasible."""
    study = search.study
    if len(study.directions) > 1:
        return sorted(study.best_trials, key=lambda trial: trial.number)
    try:
        return [study.best_trial]
    except ValueError:
        return []


def curve_values(trial: FrozenTrial) -> Mapping[str, float]:
    """The value after each epoch, by the epoch's number."""
    found: Mapping[str, float] = trial.user_attrs.get(CURVE, {})
    return found


def _best_of_another(study: Study, params: Params) -> list[dict[str, Any]]:
    """The best trials of the latest other study of the same storage, as far as this space holds them."""
    count = params.search.warm_start
    others = [
        summary
        for summary in optuna.get_all_study_summaries(study._storage)
        if summary.study_name.startswith(f"{PREFIX}-") and summary.study_name != study.study_name
    ]
    for summary in sorted(others, key=lambda other: other.datetime_start or datetime.min, reverse=True):
        other = Search(optuna.load_study(study_name=summary.study_name, storage=study._storage), "", params)
        if trials := complete_trials(other):
            found = [suggested_from(params, trial.params) for trial in trials[:count]]
            return [values for values in found if values]
    return []


def _searches_labels(params: Params) -> bool:
    return bool({"labels.pose", "labels.gesture"} & {*params.search.space})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
