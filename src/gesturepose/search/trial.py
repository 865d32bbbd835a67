"""One trial: the trunk fine-tuned on its labels, then the training of the train stage, scored on validation."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from gesturepose.backbone import initial_trunk
from gesturepose.checkpoint import save_weights
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError
from gesturepose.experiment import fit, load_trunk
from gesturepose.models.trunk import Trunk
from gesturepose.params import Params
from gesturepose.search.pruning import COST, CURVE, build_pruner, prunes, told_to_end
from gesturepose.search.space import label_cost, settings_of, trial_params
from gesturepose.search.storage import DATABASE_ERRORS, host_lock
from gesturepose.search.study import ERROR, FACTS, SCORES, SETTINGS, Search, alive, requeue, values_of
from gesturepose.signals import deferred, undisturbed
from gesturepose.tracking import FOLDER
from gesturepose.tracking.store import StoreError, store_root
from gesturepose.tracking.studies import EndedTrial, TrialRun, open_trial_run
from gesturepose.trainings import collaborative_training, finetuning

_TRUNK: Final = ("backbone", "weights", "stages", "lateral", "head_channels", "channels")  # settings of the network


def run_trial(search: Search, trial: Trial, data: PreparedData, parent_id: str) -> bool:
    """Train and score a trial that has begun, tell the study, and keep it as an MLflow run.

    Ctrl-C, SIGTERM, and a store or storage that does not answer, end it as one that is tried again, from its
    checkpoint. A trial that cannot be trained has failed, and the study goes on.

    Returns:
        Whether this process is fit for another trial: not after an error that no user's mistake explains.
    """
    run: TrialRun | None = None
    settings = settings_of(search.params, trial.params)
    checkpoint = checkpoint_of(search, settings)
    try:
        trial.set_user_attr(SETTINGS, settings)
        run = open_trial_run(parent_id, search.name, trial.number, {"trial": settings})
        with alive(trial):
            scores = _trained(search, trial, trial_params(search.params, settings), data, run, checkpoint)
    except UpdateFinishedTrialError:  # silent for so long that another host has begun it again
        return True
    except (KeyboardInterrupt, SystemExit, StoreError, *DATABASE_ERRORS) as error:
        told = isinstance(error, (KeyboardInterrupt, SystemExit))
        reason = "it was told to end" if told else str(error)
        # What does not answer now is told by the search, or by the next one.
        with undisturbed(), suppress(StoreError, *DATABASE_ERRORS):
            with host_lock():
                requeue(search, search.study._storage.get_trial(trial._trial_id), reason, counts=False)
            if run is not None:
                run.end(EndedTrial(trial.number, "FAIL", killed=True, error=reason))
        raise
    except Exception as error:
        known = isinstance(error, InputError)
        text = str(error) if known else "".join(traceback.format_exception(error))
        with deferred():
            trial.set_user_attr(ERROR, text[-4000:])
            search.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            if run is not None:
                run.end(EndedTrial(trial.number, "FAIL", killed=False, error=text))
            checkpoint.unlink(missing_ok=True)
        return known
    with deferred():
        state = TrialState.PRUNED if scores is None else TrialState.COMPLETE
        values = None if scores is None else values_of(search.params, scores)
        search.study.tell(trial, values, state=state, skip_if_finished=True)
        run.end(EndedTrial(trial.number, state.name, killed=False, error=""))
        checkpoint.unlink(missing_ok=True)
    return True


def _trained(
    search: Search, trial: Trial, params: Params, data: PreparedData, run: TrialRun, checkpoint: Path
) -> Mapping[str, float] | None:
    """The scores of the weights that the train stage would keep; None where the trial was pruned."""
    if params.runtime.compile:
        torch._dynamo.reset()  # programs of other trials count against what one process may compile
    share, cost = params.search.accuracy_share, label_cost(params, data)
    trial.set_user_attr(COST, cost)
    training = collaborative_training(params, data, finetuned_trunk(search, params, data))
    curve: dict[int, float] = {}
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    for epoch in fit(training, checkpoint):
        value = share * epoch.metrics["validation/accuracy"] + (1 - share) * epoch.metrics["validation/pck_30"]
        curve[epoch.number] = value
        run.log_metrics(epoch.metrics | {"value": value}, step=epoch.number)
        trial.set_user_attr(CURVE, curve)
        last = epoch.number == training.settings.epochs or training.finished
        if _ends(search, trial, curve, params.train.epochs) and not last:
            _constrain(search, trial, max(curve.values()))
            return None
    training.weights()  # refuses a training without any that are finite
    kept = training.history[-1]
    if params.train.select == "best":
        kept = max(training.history, key=lambda epoch: (epoch["validation/value"], -epoch["epoch"]))
    scores = {
        "accuracy": kept["validation/accuracy"],
        "pck_30": kept["validation/pck_30"],
        "value": curve[int(kept["epoch"])],
        "label_cost": cost,
        "epoch": kept["epoch"],
    }
    trial.set_user_attr(SCORES, scores)
    _constrain(search, trial, scores["value"])
    run.log_metrics({f"kept/{name}": value for name, value in scores.items()}, step=0)
    return scores


def _constrain(search: Search, trial: Trial, value: float) -> None:
    """Tell the sampler whether a trial of `cheapest` holds what it has to; of one that was pruned, too."""
    if search.params.search.objective == "cheapest":
        trial.set_constraint("value", search.params.search.hold - value)


def _ends(search: Search, trial: Trial, curve: Mapping[int, float], epochs: int) -> bool:
    """Whether the pruner ends the trial after the epochs of `curve`."""
    settings = search.params.search
    if settings.objective == "cheapest" and max(curve.values()) >= settings.hold:
        return False  # it holds already what it has to
    if settings.objective == "value":  # what Optuna's own tools show
        search.study.pruner = build_pruner(settings, epochs)
        return told_to_end(trial, curve)
    return prunes(settings, epochs, search.name, search.study.get_trials(deepcopy=False), trial.number)


def finetuned_trunk(search: Search, params: Params, data: PreparedData) -> Trunk:
    """The trunk that the finetune stage would write; one for all trials with the same labels and settings of it."""
    values = params.model_dump(mode="json")
    matters = {
        "facts": {name: value for name, value in search.study.user_attrs[FACTS].items() if name != "settings"},
        "network": {name: values["network"][name] for name in _TRUNK},
        "labels": [params.labels.pose, params.labels.seed],
        **{section: values[section] for section in ("finetune", "augment", "runtime")},
    }
    name = _digest(matters)
    folder = _folder() / "trunks"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.safetensors"
    with FileLock(folder / f"{name}.lock"):  # one process trains it, others wait
        if not file.exists():
            trunk = initial_trunk(params.network, seed=params.finetune.seed)
            checkpoint = folder / f"{name}.pt"
            for _ in fit(finetuning(params, data, trunk), checkpoint):
                pass
            save_weights(file, trunk.state_dict(), {"backbone": params.network.backbone})
            checkpoint.unlink(missing_ok=True)
    return load_trunk(params.network, file)


def checkpoint_of(search: Search, settings: Mapping[str, Any]) -> Path:
    """Where an unfinished trial's state is: of the same study and settings, so of the same computation."""
    return _folder() / "checkpoints" / f"{search.name}-{_digest(settings)[:16]}.pt"


def _folder() -> Path:
    return store_root() / FOLDER / "search"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
