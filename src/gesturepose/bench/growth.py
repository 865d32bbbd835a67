"""How time and memory of a training step grow with channels, iterations, frames and clips."""

from __future__ import annotations

from functools import partial
from typing import Final

from gesturepose.bench.measure import Row, Section, Values, alternately, milliseconds_each, row
from gesturepose.bench.memory import step_mib
from gesturepose.bench.steps import fixed_batch, step_memory, step_seconds
from gesturepose.bench.trainings import (
    PLAIN,
    build_training,
    plain_variant,
    step,
    steps_at_once,
    variant,
)
from gesturepose.bench.workplace import Case, Workplace
from gesturepose.noise import random_batch

GRID: Final = Section(
    title="Channels and iterations",
    about="A training step at the size of params.yaml with other numbers of channels a joint (C) and of iterations: "
    f"the network under params.yaml's settings, not compiled, against {PLAIN}. Few repeats.",
)
GROWTH: Final = Section(
    title="Growth with frames and clips",
    about="The same step with longer clips, and with more of them, against the smallest of the series. At k times the "
    "frames a ratio of 1/k is growth in proportion, a greater one is less. Few repeats.",
)
_CHANNELS: Final = (8, 16, 32)
_ITERATIONS: Final = (1, 2, 3, 4, 5)
_FRAMES: Final = (4, 8, 16, 32)
_CLIPS: Final = (1, 2, 4, 8)


def _cell(channels: int, iterations: int, workplace: Workplace) -> list[Row]:
    """Time and memory of one cell of the grid."""
    params, data, batch = workplace.params, workplace.prepared, fixed_batch(workplace)
    variants = {"network": variant(params.runtime, compile=False), PLAIN: plain_variant(params.runtime)}
    trainings = {
        name: build_training(params, data, chosen, channels=channels, iterations=iterations)
        for name, chosen in variants.items()
    }
    mib = step_memory(trainings, variants, batch)  # warms up as well
    seconds = step_seconds(trainings, variants, batch, workplace.few(), warm_up=False)
    milliseconds = {name: milliseconds_each(1, values) for name, values in seconds.items()}
    what = f"C={channels}, {iterations} iteration{'s' if iterations > 1 else ''}"
    return GRID.rows(
        [
            row(f"{what}: a step", milliseconds["network"], "ms/step", Values(PLAIN, milliseconds[PLAIN])),
            row(f"{what}: its memory", mib["network"], "MiB", Values(PLAIN, mib[PLAIN])),
        ]
    )


def _series(what: str, workplace: Workplace) -> list[Row]:
    """Time and memory over the frames of a clip, or over the clips of a batch."""
    params, data = workplace.params, workplace.prepared
    settings = params.train
    shapes = (
        {f"{frames} frames a clip": (settings.clips_per_batch, frames) for frames in _FRAMES}
        if what == "frames"
        else {f"{clips} clip{'s' if clips > 1 else ''} a batch": (clips, settings.segments) for clips in _CLIPS}
    )
    training = build_training(params, data, variant(params.runtime, compile=False))
    batches = {
        name: random_batch(clips, frames, data.image_size, len(data.gestures))
        for name, (clips, frames) in shapes.items()
    }
    count = steps_at_once(training.execution.device)
    seconds = alternately({name: step(training, batch, count) for name, batch in batches.items()}, workplace.few())
    milliseconds = {name: milliseconds_each(count, values) for name, values in seconds.items()}
    mib = {name: [step_mib(training, batch)] for name, batch in batches.items()}
    smallest, *greater = shapes
    return GROWTH.rows(
        [
            row(f"{name}: a step", milliseconds[name], "ms/step", Values(smallest, milliseconds[smallest]))
            for name in greater
        ]
        + [row(f"{name}: its memory", mib[name], "MiB", Values(smallest, mib[smallest])) for name in greater]
    )


CASES: Final = (
    *(
        Case(f"grid C={channels} iterations={iterations}", partial(_cell, channels, iterations))
        for channels in _CHANNELS
        for iterations in _ITERATIONS
    ),
    Case("growth with frames", partial(_series, "frames")),
    Case("growth with clips", partial(_series, "clips")),
)
