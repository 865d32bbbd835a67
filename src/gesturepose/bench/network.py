"""Training steps, loading and inference at the settings of params.yaml, and what its precision and layout buy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Literal

import torch

from gesturepose.backbone import initial_trunk
from gesturepose.bench.measure import Row, milliseconds_each, rates, row
from gesturepose.bench.workplace import Case, Workplace
from gesturepose.data.augment import augment
from gesturepose.data.clips import evaluation_loader, training_loader
from gesturepose.engine import infer, train_epoch
from gesturepose.experiment import Training, collaborative_training
from gesturepose.params import Params
from gesturepose.skeleton import JOINTS
from gesturepose.structures import ClipBatch

_Precision = Literal["float32", "bfloat16"]
_VARIANTS: Final[tuple[tuple[_Precision, bool], ...]] = (
    ("float32", False),
    ("float32", True),
    ("bfloat16", False),
    ("bfloat16", True),
)
_PLAIN: Final = "float32"  # the first variant's name
_STEPS: Final = 1  # training steps that are timed together
_LATENCY_CLIPS: Final = 5


def _variant_name(precision: _Precision, channels_last: bool) -> str:
    return precision + (", channels_last" if channels_last else "")


def _training(workplace: Workplace, precision: _Precision, channels_last: bool) -> Training:
    """A training on the prepared videos at its start; the speed does not depend on where the weights come from."""
    params = workplace.params
    runtime = params.runtime.model_copy(update={"precision": precision, "channels_last": channels_last})
    network = params.network.model_copy(update={"weights": "none"})
    train = params.train.model_copy(update={"select": "last"})  # nothing is selected, and no video is held back
    params = params.model_copy(update={"runtime": runtime, "network": network, "train": train})
    return collaborative_training(params, workplace.prepared, initial_trunk(network, seed=params.train.seed))


def _as_set(params: Params) -> tuple[_Precision, bool]:
    return params.runtime.precision, params.runtime.channels_last


def random_batch(clips: int, frames: int, size: int, gestures: int) -> ClipBatch:
    """A batch of noise with every label, crops of `size` px."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (clips, frames, size, size, 3), dtype=torch.uint8, generator=rng)
    return ClipBatch(
        video=pixels.permute(0, 1, 4, 2, 3),
        frame_valid=torch.ones(clips, frames, dtype=torch.bool),
        joints_uv_crop_px=(size - 1) * torch.rand(clips, frames, JOINTS, 2, generator=rng),
        depth_rel=torch.randn(clips, frames, JOINTS, generator=rng),
        joint_valid=torch.ones(clips, frames, JOINTS, dtype=torch.bool),
        gesture=torch.randint(gestures, (clips,), generator=rng),
        gesture_valid=torch.ones(clips, dtype=torch.bool),
        video_index=torch.arange(clips),
        frame_index=torch.arange(frames).expand(clips, frames),
    )


def _steps(training: Training, batch: ClipBatch) -> Callable[[], object]:
    """`_STEPS` optimisation steps on a batch that is already there; `train_epoch` ends when the device has."""
    moved = batch.to(training.execution.device)
    return partial(
        train_epoch,
        training.network,
        training.criterion,
        training.optimiser,
        [moved] * _STEPS,
        training.execution,
        augment=lambda unchanged: unchanged,
        title="training steps",
    )


def _fixed_batch(workplace: Workplace) -> ClipBatch:
    settings, data = workplace.params.train, workplace.prepared
    return random_batch(settings.clips_per_batch, settings.segments, data.image_size, len(data.gestures))


def _training_step(workplace: Workplace) -> list[Row]:
    """Frames a second of the optimisation step, for each precision and memory layout."""
    batch = _fixed_batch(workplace)
    seconds = workplace.alternately(
        {_variant_name(*variant): _steps(_training(workplace, *variant), batch) for variant in _VARIANTS}
    )
    return _by_variant("training step", seconds, _STEPS * batch.frame_valid.numel(), workplace.params)


def _by_variant(title: str, seconds: dict[str, list[float]], frames: int, params: Params) -> list[Row]:
    """A row for each variant; all but the plain one have it as their baseline."""
    plain = (f"{title}, {_PLAIN}", rates(frames, seconds[_PLAIN]))
    rows = []
    for variant in _VARIANTS:
        name = _variant_name(*variant)
        mark = " (params.yaml)" if variant == _as_set(params) else ""
        baseline = None if name == _PLAIN else plain
        rows.append(row(f"{title}, {name}{mark}", rates(frames, seconds[name]), "frames/s", baseline))
    return rows


def _loader(workplace: Workplace) -> list[Row]:
    """Frames a second of loading and augmenting an epoch, against the training step that waits for them."""
    data, settings = workplace.prepared, workplace.params.train
    training = _training(workplace, *_as_set(workplace.params))
    batch = _fixed_batch(workplace)

    def load() -> int:
        batches = training_loader(
            data,
            training.train_videos,
            segments=settings.segments,
            clips_per_batch=settings.clips_per_batch,
            seed=settings.seed,
            epoch=1,
        )
        frames = 0
        for loaded in batches:
            changed = augment(loaded.to(training.execution.device), training.augment, seed=settings.seed, epoch=1)
            frames += changed.frame_valid.numel()
        if training.execution.device.type == "cuda":
            torch.cuda.synchronize()
        return frames

    frames = load()
    seconds = workplace.alternately({"load": load, "step": _steps(training, batch)})
    baseline = ("training step (params.yaml)", rates(_STEPS * batch.frame_valid.numel(), seconds["step"]))
    return [row("load and augment training clips", rates(frames, seconds["load"]), "frames/s", baseline)]


def _inference(workplace: Workplace) -> list[Row]:
    """Frames a second in the batches of the evaluation, for each precision and memory layout."""
    clips = workplace.params.evaluate.clips_per_batch
    loader = evaluation_loader(
        workplace.prepared,
        workplace.prepared.videos,
        segments=workplace.params.train.segments,
        clips_per_batch=clips,
    )
    batch = next(iter(loader))
    seconds = workplace.alternately(
        {_variant_name(*variant): _inference_of(_training(workplace, *variant), [batch]) for variant in _VARIANTS}
    )
    title = f"inference, {len(batch.gesture)} clips a batch"
    return _by_variant(title, seconds, batch.frame_valid.numel(), workplace.params)


def _latency(workplace: Workplace) -> list[Row]:
    """Milliseconds from one clip to its outputs, at params.yaml's settings."""
    settings = workplace.params.train
    batch = _fixed_batch(workplace)
    one = ClipBatch(**{name: value[:1] for name, value in vars(batch).items()})
    training = _training(workplace, *_as_set(workplace.params))
    seconds = workplace.alternately({"clip": _inference_of(training, [one] * _LATENCY_CLIPS)})["clip"]
    name = f"inference, one clip of {settings.segments} frames (params.yaml)"
    return [row(name, milliseconds_each(_LATENCY_CLIPS, seconds), "ms/clip")]


def _inference_of(training: Training, batches: list[ClipBatch]) -> Callable[[], object]:
    def run() -> None:
        for _, outputs in infer(training.network, batches, training.execution, title="inference"):
            outputs[-1].logits.cpu()  # waits for the device

    return run


CASES: Final = (
    Case("training step", _training_step),
    Case("loader", _loader),
    Case("inference batched", _inference),
    Case("inference one clip", _latency),
)
