"""Whole epochs: that loading does not keep them waiting, what evaluation takes beside them, and what tracking takes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Final

import torch

from gesturepose.bench.measure import Row, Section, Values, alternately, rates, row
from gesturepose.bench.trainings import (
    PLAIN,
    augmentation,
    build_training,
    plain_variant,
    steps_at_once,
    switching,
    train_on,
    variant,
)
from gesturepose.bench.workplace import Case, Workplace
from gesturepose.checkpoint import save_state
from gesturepose.data.clips import BatchLoader, training_loader
from gesturepose.data.delivery import Prefetched
from gesturepose.evaluation import evaluate_predictions
from gesturepose.experiment import Epoch, Training, fit, predict_videos
from gesturepose.models.collaborative import CollaborativeNetwork
from gesturepose.params import Params
from gesturepose.tracking import stage_run

LOADING: Final = Section(
    title="Loading",
    about="Whether steps wait for their data: the same steps on batches that are read as in a training, and on one "
    "batch that is already on the device. Both are augmented within the step. The crops are in the page cache, as from "
    "a training's second epoch on.",
)
EPOCHS: Final = Section(
    title="Epochs, evaluation, tracking",
    about="The generated set's videos under the settings of params.yaml, not compiled; an epoch has one clip of each "
    "training video. Tracking is what a stage does after each epoch: its metrics into an MLflow store (here one of its "
    "own), and the training's state to the disk. Few repeats.",
)
PAIRS: Final = 4  # for each repeat, of what differs by little
_BATCHES_ON_CPU: Final = 2
_TRAIN_VIDEOS: Final = 16
_VALIDATION_VIDEOS: Final = 4
_ENDLESS: Final = 1_000_000


def loading_speed(training: Training, repeats: int) -> dict[str, list[float]]:
    """Frames a second of steps on batches that are `read`, on one that is `present`, and of reading `alone`."""
    device = training.execution.device
    count = steps_at_once(device) if device.type == "cuda" else _BATCHES_ON_CPU
    loader = _first_epoch(training, count)
    present = [next(iter(loader)).to(device)] * len(loader)
    changed = augmentation(training)

    def read() -> None:
        for batch in loader:
            changed(batch.to(device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    seconds = alternately(
        {"read": train_on(training, loader), "present": train_on(training, present), "alone": read}, repeats
    )
    frames = sum(batch.frame_valid.numel() for batch in present)
    return {name: rates(frames, values) for name, values in seconds.items()}


def _loading(workplace: Workplace) -> list[Row]:
    training = build_training(workplace.params, workplace.prepared, variant(workplace.params.runtime, compile=False))
    speed = loading_speed(training, PAIRS * workplace.repeats)
    present = Values("training steps on a batch that is there", speed["present"])
    return LOADING.rows(
        [
            row("training steps on batches that are read", speed["read"], "frames/s", present),
            row("reading and augmenting alone", speed["alone"], "frames/s", present),
        ]
    )


def _epoch(workplace: Workplace) -> list[Row]:
    """A short epoch as `fit` has it, with its validation."""
    params, data = _endless(workplace.params), workplace.prepared
    variants = {"network": variant(params.runtime, compile=False), PLAIN: plain_variant(params.runtime)}
    epochs = {name: fit(_shortened(build_training(params, data, chosen))) for name, chosen in variants.items()}
    seconds = alternately(
        {name: partial(next, epoch) for name, epoch in epochs.items()}, workplace.few(2), before=switching(variants)
    )
    shown = _shortened(build_training(params, data, variants["network"]))
    what = f"epoch of {len(shown.train_videos)} videos"
    if shown.validation_videos:
        what += f", and validation on {len(shown.validation_videos)}"
    return EPOCHS.rows([row(what, seconds["network"], "s", Values(f"the same, {PLAIN}", seconds[PLAIN]))])


def _whole_epoch(workplace: Workplace) -> list[Row]:
    """All training videos, all test videos, and what is written down after an epoch."""
    params, data = _endless(workplace.params), workplace.prepared
    training = build_training(params, data, variant(params.runtime, compile=False))
    network = training.network
    assert isinstance(network, CollaborativeNetwork)
    # One epoch as `fit` gives it, of few videos: its metrics, and the best weights that a state holds.
    short = _shortened(training)
    first = next(fit(short))
    training.best_weights, training.history = short.best_weights, short.history
    tested = data.split("test")

    def evaluate() -> None:
        predictions = predict_videos(
            network,
            data,
            tested,
            params.runtime.model_copy(update={"compile": False}),
            segments=params.train.segments,
            clips_per_batch=params.evaluate.clips_per_batch,
        )
        evaluate_predictions(predictions, data, params.evaluate)

    loader = _first_epoch(training)
    with _tracked(workplace, params, first) as log:
        log()  # the first time, MLflow's tables are read
        seconds = alternately(
            {
                "epoch": train_on(training, loader),
                "evaluation": evaluate,
                "metrics": log,
                "state": lambda: save_state(workplace.folder / "state.pt", training.state_dict()),
            },
            workplace.few(2),
            warm_up=False,
        )
    frames = len(loader) * training.settings.clips_per_batch * training.settings.segments
    epoch = f"epoch of {len(training.train_videos)} videos, {frames:,} frames"
    in_epoch = Values(epoch, rates(frames, seconds["epoch"]))
    evaluated = sum(video.frames for video in tested)
    whole = Values(epoch, [100.0] * len(seconds["epoch"]))

    def share(name: str) -> list[float]:
        return [100 * part / all_of_it for part, all_of_it in zip(seconds[name], seconds["epoch"], strict=True)]

    return EPOCHS.rows(
        [
            row(
                f"evaluation of {len(tested)} videos, {evaluated:,} frames, metrics and baselines included",
                rates(evaluated, seconds["evaluation"]),
                "frames/s",
                in_epoch,
            ),
            row(f"logging an epoch's {len(first.metrics)} metrics, share of the epoch", share("metrics"), "%", whole),
            row("writing the training's state, share of the epoch", share("state"), "%", whole),
        ]
    )


@contextlib.contextmanager
def _tracked(workplace: Workplace, params: Params, epoch: Epoch) -> Iterator[Callable[[], None]]:
    """A stage's run in a store of its own; calling what it yields logs the epoch's metrics as another step."""
    project = workplace.folder / "tracked"
    (project / ".dvc").mkdir(parents=True)
    outside = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith(("DVC_", "MLFLOW_TRACKING_"))}
    steps = iter(range(_ENDLESS))
    try:
        sections = ("network", "loss", "augment", "runtime", "train")
        with contextlib.chdir(project), stage_run("train", params=params, sections=sections) as run:
            yield lambda: run.log_metrics(epoch.metrics, step=next(steps))
    finally:
        os.environ.update(outside)


def _endless(params: Params) -> Params:
    """A training that does not end before the measurement."""
    return params.model_copy(update={"train": params.train.model_copy(update={"epochs": _ENDLESS})})


def _shortened(training: Training) -> Training:
    return replace(
        training,
        train_videos=training.train_videos[:_TRAIN_VIDEOS],
        validation_videos=training.validation_videos[:_VALIDATION_VIDEOS],
    )


def _first_epoch(training: Training, batches: int | None = None) -> BatchLoader:
    """The first epoch as `fit` reads it; with `batches`, one of so many batches."""
    settings = training.settings
    videos = training.train_videos if batches is None else training.train_videos[: batches * settings.clips_per_batch]
    loader = training_loader(
        training.data,
        videos,
        segments=settings.segments,
        clips_per_batch=settings.clips_per_batch,
        seed=settings.seed,
        epoch=1,
        pixels=training.pixels,
    )
    return Prefetched(loader, training.execution.device)


CASES: Final = (Case("loading", _loading), Case("short epoch", _epoch), Case("whole epoch", _whole_epoch))
