"""One trial: the trunk fine-tuned on its labels, then the training of the train stage, scored on validation."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock
from optuna.trial import Trial, TrialState

from gesturepose.backbone import initial_trunk
from gesturepose.checkpoint import save_weights
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError
from gesturepose.experiment import fit, load_trunk
from gesturepose.models.trunk import Trunk
from gesturepose.params import Params
from gesturepose.search.pruning import CURVE, build_pruner, prunes, told_to_end
from gesturepose.search.space import label_cost, settings_of, trial_params
from gesturepose.search.storage import host_lock
from gesturepose.search.study import ERROR, FACTS, SCORES, SETTINGS, Search, requeue, values_of
from gesturepose.signals import signals_as_exit, undisturbed
from gesturepose.tracking import FOLDER
from gesturepose.tracking.store import store_root
from gesturepose.tracking.studies import EndedTrial, TrialRun, open_trial_run
from gesturepose.trainings import collaborative_training, finetuning

_TRUNK: Final = ("backbone", "weights", "stages", "lateral", "head_channels", "channels")  # settings of the network


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: TrialState
    scores: Mapping[str, float]


def run_trial(search: Search, trial: Trial, data: PreparedData, parent_id: str) -> Outcome:
    """Train and score a trial that has begun, tell the study, and keep it as an MLflow run.

    Ctrl-C and SIGTERM end it as one that is tried again, from its checkpoint. A trial that cannot be trained has
    failed, and the study goes on.
    """
    settings = settings_of(search.params, trial.params)
    trial.set_user_attr(SETTINGS, settings)
    run: TrialRun | None = None
    with signals_as_exit() as received:
        try:
            run = open_trial_run(parent_id, search.name, trial.number, {"trial": settings})
            scores = _trained(search, trial, trial_params(search.params, settings), data, run)
        except (KeyboardInterrupt, SystemExit):
            with undisturbed():
                reason = received[0] if received else "SIGINT"
                with host_lock():
                    requeue(search, search.study._storage.get_trial(trial._trial_id), reason)
                if run is not None:
                    run.end(EndedTrial(trial.number, "FAIL", killed=True, error=reason))
            raise
        except Exception as error:
            text = str(error) if isinstance(error, InputError) else "".join(traceback.format_exception(error))
            with undisturbed():
                trial.set_user_attr(ERROR, text[-4000:])
                search.study.tell(trial, state=TrialState.FAIL)
                if run is not None:
                    run.end(EndedTrial(trial.number, "FAIL", killed=False, error=text))
            return Outcome(TrialState.FAIL, {})
        with undisturbed():
            state = TrialState.PRUNED if scores is None else TrialState.COMPLETE
            search.study.tell(trial, None if scores is None else values_of(search.params, scores), state=state)
            run.end(EndedTrial(trial.number, state.name, killed=False, error=""))
            checkpoint_of(search, settings).unlink(missing_ok=True)
        return Outcome(state, scores or {})


def _trained(
    search: Search, trial: Trial, params: Params, data: PreparedData, run: TrialRun
) -> Mapping[str, float] | None:
    """The scores of the weights that the train stage would keep; None where the trial was pruned."""
    share = params.search.accuracy_share
    training = collaborative_training(params, data, finetuned_trunk(search, params, data))
    curve: dict[int, float] = {}
    checkpoint = checkpoint_of(search, settings_of(search.params, trial.params))
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    for epoch in fit(training, checkpoint):
        value = share * epoch.metrics["validation/accuracy"] + (1 - share) * epoch.metrics["validation/pck_30"]
        curve[epoch.number] = value
        run.log_metrics(epoch.metrics | {"value": value}, step=epoch.number)
        trial.set_user_attr(CURVE, curve)
        last = epoch.number == training.settings.epochs or training.finished
        if _ends(search, trial, curve, params.train.epochs) and not last:
            return None
    training.weights()  # refuses a training without any that are finite
    kept = training.history[-1]
    if params.train.select == "best":
        kept = max(training.history, key=lambda epoch: (epoch["validation/value"], -epoch["epoch"]))
    scores = {
        "accuracy": kept["validation/accuracy"],
        "pck_30": kept["validation/pck_30"],
        "value": curve[int(kept["epoch"])],
        "label_cost": label_cost(params),
        "epoch": kept["epoch"],
    }
    trial.set_user_attr(SCORES, scores)
    if params.search.objective == "cheapest":
        trial.set_constraint("value", params.search.hold - scores["value"])
    run.log_metrics({f"kept/{name}": value for name, value in scores.items()}, step=0)
    return scores


def _ends(search: Search, trial: Trial, curve: Mapping[int, float], epochs: int) -> bool:
    """Whether the pruner ends the trial after the epochs of `curve`."""
    settings = search.params.search
    if settings.pruner == "none":
        return False
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
