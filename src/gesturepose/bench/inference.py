"""Inference at the size of params.yaml: in the evaluation's batches, and from one clip to its outputs."""

from __future__ import annotations

from typing import Final

from gesturepose.bench.measure import Row, Section, Values, alternately, milliseconds_each, rates, row
from gesturepose.bench.steps import fixed_batch, ladder
from gesturepose.bench.trainings import PLAIN, build_training, inference, plain_variant, switching, variant
from gesturepose.bench.workplace import Case, Workplace
from gesturepose.data.clips import evaluation_loader
from gesturepose.structures import ClipBatch

INFERENCE: Final = Section(
    title="Inference",
    about=f"Forward passes at the size of params.yaml, outputs fetched from the device, against {PLAIN}.",
)
_CLIPS_IN_TURN: Final = 5


def _batched(workplace: Workplace) -> list[Row]:
    """Frames a second in the batches of the evaluation."""
    params, data = workplace.params, workplace.prepared
    batch = next(
        iter(
            evaluation_loader(
                data, data.videos, segments=params.train.segments, clips_per_batch=params.evaluate.clips_per_batch
            )
        )
    )
    variants = {name: chosen for name, chosen in ladder(params.runtime).items() if "checkpoint" not in name}
    seconds = alternately(
        {name: inference(build_training(params, data, chosen), [batch]) for name, chosen in variants.items()},
        workplace.repeats,
        before=switching(variants),
    )
    speed = {name: rates(batch.frame_valid.numel(), values) for name, values in seconds.items()}
    what = f"{len(batch.gesture)} clips a batch"
    baseline = Values(f"{what}, {PLAIN}", speed[PLAIN])
    return INFERENCE.rows(
        [row(f"{what}, {name}", speed[name], "frames/s", baseline) for name in variants if name != PLAIN]
    )


def _latency(workplace: Workplace) -> list[Row]:
    """Milliseconds from one clip to its outputs."""
    params, data = workplace.params, workplace.prepared
    batch = fixed_batch(workplace)
    one = ClipBatch(**{name: value[:1] for name, value in vars(batch).items()})
    variants = {"network": variant(params.runtime, compile=False), PLAIN: plain_variant(params.runtime)}
    seconds = alternately(
        {
            name: inference(build_training(params, data, chosen), [one] * _CLIPS_IN_TURN)
            for name, chosen in variants.items()
        },
        workplace.repeats,
        before=switching(variants),
    )
    each = {name: milliseconds_each(_CLIPS_IN_TURN, values) for name, values in seconds.items()}
    what = f"one clip of {params.train.segments} frames"
    return INFERENCE.rows(
        [row(f"{what}, network as in params.yaml", each["network"], "ms/clip", Values(f"{what}, {PLAIN}", each[PLAIN]))]
    )


CASES: Final = (Case("inference batched", _batched), Case("inference one clip", _latency))
