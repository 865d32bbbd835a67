"""The composition root: settings → data, network, criterion, optimiser; `fit` yields an epoch at a time.

The stages log and checkpoint what `fit` yields, a study reports and prunes; neither is known here.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from gesturepose.checkpoint import load_into, load_state, load_weights, save_state
from gesturepose.data.augment import augment
from gesturepose.data.clips import BatchLoader, evaluation_loader, training_loader
from gesturepose.data.delivery import Prefetched, resident_pixels
from gesturepose.data.prepared import PreparedData, Video
from gesturepose.engine import Criterion, Execution, LossMeans, infer, predict, quick_scores, train_epoch
from gesturepose.errors import InputError
from gesturepose.models.collaborative import CollaborativeNetwork, build_network, build_trunk
from gesturepose.models.trunk import Trunk
from gesturepose.optim import LearningRate, build_optimiser
from gesturepose.parallel import ALONE, World, replicated
from gesturepose.params import AugmentSettings, FinetuneSettings, NetworkSettings, Params, RuntimeSettings
from gesturepose.structures import ClipBatch, Predictions


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave; `metrics` has keys such as train/loss and validation/accuracy."""

    number: int  # from 1
    metrics: dict[str, float]
    value: float | None  # what the best epoch is chosen by, higher is better
    is_best: bool

    def __str__(self) -> str:
        shown = ("train/loss", "validation/loss", "validation/accuracy", "validation/pck_30")
        numbers = ", ".join(f"{name} {self.metrics[name]:.4f}" for name in shown if name in self.metrics)
        return f"epoch {self.number}: {numbers}" + (" (best so far)" if self.is_best else "")


@dataclass
class Training:
    """All that an optimisation needs, and its state."""

    network: nn.Module
    criterion: Criterion
    settings: FinetuneSettings
    augment: AugmentSettings
    data: PreparedData
    train_videos: tuple[Video, ...]
    validation_videos: tuple[Video, ...]
    validation_clips_per_batch: int
    execution: Execution
    replica: nn.Module  # `network`, as it is called in training beside other processes
    pixels: Tensor | None  # the data's frames, where they are on a GPU
    optimiser: Optimizer
    learning_rate: LearningRate
    keep_best: bool
    epochs_done: int = 0
    finished: bool = False
    best_value: float = float("-inf")
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    def batches(self, epoch: int) -> BatchLoader:
        """This process's part of the batches of an epoch."""
        settings = self.settings
        return training_loader(
            self.data,
            self.train_videos,
            segments=settings.segments,
            clips_per_batch=settings.clips_per_batch,
            seed=settings.seed,
            epoch=epoch,
            pixels=self.pixels,
            world=self.execution.world,
        )

    def prepare(self, batch: ClipBatch, epoch: int) -> ClipBatch:
        """A batch as the network sees it in training; with the same labels, moved along with the picture."""
        return augment(batch, self.augment, seed=self.settings.seed, epoch=epoch)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values; what a training draws at random depends on seed and epoch alone."""
        return {
            "device": self.execution.device.type,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "learning_rate": self.learning_rate.state_dict(),
            "epochs_done": self.epochs_done,
            "finished": self.finished,
            "best_value": self.best_value,
            "best_weights": self.best_weights,
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.learning_rate.load_state_dict(state["learning_rate"])
        for name in ("epochs_done", "finished", "best_value", "best_weights", "history"):
            setattr(self, name, state[name])

    def weights(self) -> dict[str, Tensor]:
        """The weights to keep: those of the best epoch by validation, or the last ones."""
        weights = self.best_weights if self.keep_best else _copy(self.network)
        broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
        if broken or not weights:
            what = f"{broken[0]} is not finite" if broken else "no epoch had a validation value"
            raise InputError(f"there are no weights to keep: {what}", hint="Lower the learning rate, then run again.")
        return weights


def fit(training: Training, checkpoint: Path | None = None) -> Iterator[Epoch]:
    """Train on from `training.epochs_done`; yields after each epoch, when the state is whole.

    A resumed training yields the epochs of before once more, first: whoever logs them knows which are new.

    With `checkpoint`, that file's state is taken up first and written after each epoch, before it is yielded. What is
    in it must belong to the very same computation: name it by a fingerprint.

    Of several processes each yields the same epochs, and the leading one writes the checkpoint.
    """
    world = training.execution.world
    if checkpoint is not None and (state := load_state(checkpoint)) is not None:
        device = training.execution.device.type
        if state["device"] != device:
            raise InputError(
                f"a state of a training on {state['device']}, but this one runs on {device}",
                file=checkpoint,
                hint="Set runtime.device to go on with it, or delete the file to start anew.",
            )
        training.load_state_dict(state)
        # An epoch may have been saved and not yet logged when the earlier process ended.
        for done in training.history:
            yield Epoch(int(done["epoch"]), {key: value for key, value in done.items() if key != "epoch"}, None, False)
    if int(world.sum(torch.tensor(training.epochs_done != world.from_leader(training.epochs_done)))):
        raise InputError(
            "the processes do not see the same checkpoint", file=checkpoint, hint="They need one shared file system."
        )
    name = "train" if isinstance(training.network, CollaborativeNetwork) else "finetune"
    settings = training.settings
    while training.epochs_done < settings.epochs and not training.finished:
        number = training.epochs_done + 1
        rate = training.learning_rate.value
        losses = train_epoch(
            training.replica,
            training.criterion,
            training.optimiser,
            Prefetched(training.batches(number), training.execution.device),
            training.execution,
            prepare=partial(training.prepare, epoch=number),
            title=f"{name} {number}/{settings.epochs}",
        )
        metrics = {f"train/{key}": value for key, value in losses.items()}
        value = None
        if training.validation_videos:
            scores = _validate(training, title=f"{name} {number}/{settings.epochs}: validation")
            metrics |= {f"validation/{key}": score for key, score in scores.items()}
            if "accuracy" in scores:
                value = 0.5 * (scores["accuracy"] + scores["pck_30"])
                metrics["validation/value"] = value
        metrics["learning_rate"] = rate
        is_best = value is not None and value > training.best_value
        if value is not None and is_best:
            training.best_value = value
            training.best_weights = _copy(training.network)
        training.finished = training.learning_rate.after_epoch(losses["loss"])
        training.epochs_done = number
        training.history.append({"epoch": number, **metrics})
        if checkpoint is not None and world.leads:
            save_state(checkpoint, training.state_dict())
        yield Epoch(number, metrics, value, is_best)


def history_table(history: list[dict[str, float]]) -> pd.DataFrame:
    """One row for each epoch and split: epoch, split, learning_rate, losses, and scores where there are some."""
    rows: list[dict[str, object]] = []
    for epoch in history:
        for split in ("train", "validation"):
            values = {
                key.removeprefix(f"{split}/"): value for key, value in epoch.items() if key.startswith(f"{split}/")
            }
            if values:
                rows.append(
                    {"epoch": int(epoch["epoch"]), "split": split, "learning_rate": epoch["learning_rate"], **values}
                )
    return pd.DataFrame(rows)


def load_trunk(settings: NetworkSettings, path: Path) -> Trunk:
    """A trunk that the backbone or the finetune stage wrote."""
    state, _ = load_weights(path)
    trunk = build_trunk(settings)
    load_into(trunk, state, path)
    return trunk


def network_header(settings: NetworkSettings, data: PreparedData) -> dict[str, Any]:
    """What `load_network` needs beside the tensors."""
    return {
        "network": settings.model_dump(mode="json"),
        "gestures": list(data.gestures),
        "image_size": data.image_size,
    }


def load_network(path: Path, data: PreparedData) -> CollaborativeNetwork:
    """The network as its weights' header describes it.

    Raises:
        InputError: the weights were trained on other classes or another crop size than `data` has.
    """
    state, header = load_weights(path)
    for key, found in (("gestures", list(data.gestures)), ("image_size", data.image_size)):
        if header.get(key) != found:
            raise InputError(
                f"trained with {key} {header.get(key)}, but the prepared data has {found}",
                file=path,
                hint="Run the train stage on this data.",
            )
    try:
        settings = NetworkSettings.model_validate_json(json.dumps(header.get("network")))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"of another version of the network: {'.'.join(('network', *map(str, first['loc'])))}: {first['msg']}",
            file=path,
            hint="Run the train stage again.",
        ) from None
    network = build_network(settings, build_trunk(settings), gestures=len(data.gestures), image_size=data.image_size)
    load_into(network, state, path)
    return network


def predict_videos(
    network: CollaborativeNetwork,
    data: PreparedData,
    videos: tuple[Video, ...],
    runtime: RuntimeSettings,
    *,
    segments: int,
    clips_per_batch: int,
    world: World = ALONE,
) -> Predictions:
    """Every frame of `videos` once, through the whole network, by all processes of `world` together."""
    execution = prepare_execution(runtime, world)
    _place(network, execution, runtime)
    batches = evaluation_loader(data, videos, segments=segments, clips_per_batch=clips_per_batch, world=world)
    ahead = Prefetched(batches, execution.device)
    return predict(infer(network, ahead, execution, title="predict"), data, videos, world)


def uses_gpu(runtime: RuntimeSettings) -> bool:
    """Whether `runtime` comes out at a GPU on this machine.

    Raises:
        InputError: cuda is asked for and not there.
    """
    there = torch.cuda.is_available()
    if runtime.device == "cuda" and not there:
        raise InputError("runtime.device is cuda, but no CUDA device is there", hint="Use auto or cpu.")
    return runtime.device != "cpu" and there


def prepare_execution(runtime: RuntimeSettings, world: World = ALONE) -> Execution:
    """Set this process up as `runtime` says, as one of `world`.

    Raises:
        InputError: what `runtime` asks for cannot be had here.
    """
    on_gpu = uses_gpu(runtime)
    if runtime.precision == "tf32" and not on_gpu:
        raise InputError("runtime.precision is tf32, which only GPUs have", hint="Use float32 or bfloat16.")
    if runtime.compile and world.size > 1:
        raise InputError(
            f"runtime.compile is true, but {world.size} processes train together",
            hint="Set it to false: what the processes exchange within a step is not compiled.",
        )
    if runtime.compile and shutil.which(shlex.split(os.environ.get("CXX", "g++"))[0]) is None:
        raise InputError(
            "runtime.compile is true, but there is no C++ compiler, which torch.compile needs",
            hint="Install g++, name another in the variable CXX, or set runtime.compile to false.",
        )
    torch.set_num_threads(runtime.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
    torch.use_deterministic_algorithms(runtime.deterministic)
    # It would fill all new memory, for code that reads before it writes: 6 % of a step, and there is none here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not runtime.deterministic
    # float32 means float32. Beside bf16, TF32 costs little: the Gram matrix is of bf16 values, which it holds exactly,
    # and composed weights, which it rounds to 10 bits, are rounded to bf16's 7 anyway.
    allow_tf32 = runtime.precision != "float32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    precision = torch.bfloat16 if runtime.precision == "bfloat16" else torch.float32
    return Execution(torch.device("cuda" if on_gpu else "cpu"), precision, compiled=runtime.compile, world=world)


def build_training(
    params: Params,
    data: PreparedData,
    network: nn.Module,
    criterion: Criterion,
    settings: FinetuneSettings,
    world: World,
    *,
    section: str,
    keep_best: bool = False,
    kind: type[Training] = Training,
    **fields: Any,
) -> Training:
    """The training of `network` on the training videos of `data`, ready to start.

    Args:
        section: where in params.yaml `settings` stand, for messages.
        kind: the class of the result, and `fields` what it has beyond `Training`.

    Raises:
        InputError: what the settings ask for cannot be had with this data, on this machine, by these processes.
    """
    execution = prepare_execution(params.runtime, world)
    if settings.clips_per_batch % world.size:
        raise InputError(
            f"{section}.clips_per_batch is {settings.clips_per_batch}, but {world.size} processes share each batch",
            hint=f"Make it a multiple of {world.size}, or change runtime.launcher.",
        )
    train_videos = data.split("train")
    if not train_videos:
        raise InputError("the prepared data has no training video", file=data.folder, hint="See data.protocol.")
    if keep_best and not data.split("validation"):
        raise InputError(
            "train.select is best, but the prepared data has no validation video",
            file=data.folder,
            hint="Set train.select to last, or data.validation higher.",
        )
    _place(network, execution, params.runtime)
    replica = replicated(network, world, execution.device)
    optimiser = build_optimiser(network, settings)
    given: dict[str, Any] = {
        "network": network,
        "criterion": criterion,
        "settings": settings,
        "augment": params.augment,
        "data": data,
        "train_videos": train_videos,
        "validation_videos": data.split("validation"),
        "validation_clips_per_batch": settings.clips_per_batch,
        "execution": execution,
        "replica": replica,
        "pixels": resident_pixels(data, execution.device),
        "optimiser": optimiser,
        "learning_rate": LearningRate(optimiser, settings),
        "keep_best": keep_best,
    }
    return kind(**(given | fields))


def _validate(training: Training, *, title: str) -> dict[str, float]:
    batches = evaluation_loader(
        training.data,
        training.validation_videos,
        segments=training.settings.segments,
        clips_per_batch=training.validation_clips_per_batch,
        pixels=training.pixels,
        world=training.execution.world,
    )
    means = LossMeans()

    def outputs() -> Iterator[Any]:
        ahead = Prefetched(batches, training.execution.device)
        for batch, output in infer(training.network, ahead, training.execution, title=title):
            means.add(training.criterion(output, batch, ALONE), len(batch.gesture))  # each batch is of one process
            yield batch, output

    world = training.execution.world
    if isinstance(training.network, CollaborativeNetwork):
        predictions = predict(outputs(), training.data, training.validation_videos, world)
        return means.means(world) | quick_scores(predictions)
    for _ in outputs():
        pass
    return means.means(world)


def _place(network: nn.Module, execution: Execution, runtime: RuntimeSettings) -> None:
    memory_format = torch.channels_last if runtime.channels_last else torch.contiguous_format
    network.to(execution.device).to(memory_format=memory_format)
    if isinstance(network, CollaborativeNetwork):
        network.checkpointed = runtime.checkpoint_iterations


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
