"""The network at the size of the paper: 256² crops, ResNet-50, 16 channels a joint, and five iterations in memory."""

from __future__ import annotations

from typing import Final

import psutil

from gesturepose.bench.measure import Row, Section, Values, alternately, not_measured, rates, row
from gesturepose.bench.memory import step_mib
from gesturepose.bench.steps import step_memory, step_seconds
from gesturepose.bench.trainings import (
    PAPER_CLIPS,
    PAPER_FRAMES,
    PAPER_SIZE,
    PLAIN,
    Variant,
    build_training,
    inference,
    paper_params,
    plain_variant,
    switching,
    variant,
)
from gesturepose.bench.workplace import Case, Workplace
from gesturepose.experiment import uses_gpu
from gesturepose.noise import random_batch
from gesturepose.params import STREAMS, RuntimeSettings
from gesturepose.structures import ClipBatch

PAPER: Final = Section(
    title="The paper's size",
    about=f"The network of the `paper` profile at {PAPER_SIZE}×{PAPER_SIZE} px (ResNet-50, C=16) under params.yaml's "
    f"runtime settings, not compiled, against {PLAIN}. The paper's batch has {PAPER_CLIPS} clips; on a CPU one is "
    "measured, which is what time and memory allow. Few repeats.",
)
NETWORK: Final = "network"
CHECKPOINTED: Final = "network, checkpoint_iterations"
_NEEDED_GIB: Final = 12  # free, for five iterations of the plain network with one clip


def paper_batch(workplace: Workplace, runtime: RuntimeSettings) -> ClipBatch:
    """The paper's batch, on a CPU a quarter of it."""
    clips = PAPER_CLIPS if uses_gpu(runtime) else 1
    return random_batch(clips, PAPER_FRAMES, PAPER_SIZE, len(workplace.prepared.gestures))


def _shape(batch: ClipBatch) -> str:
    clips, frames = batch.frame_valid.shape
    return f"{clips} clip{'s' if clips > 1 else ''} x {frames} frames"


def _two_iterations(workplace: Workplace) -> list[Row]:
    """Training step and inference, and the step's memory."""
    params, data = paper_params(workplace.params), workplace.prepared_at(PAPER_SIZE)
    variants = {NETWORK: variant(params.runtime, compile=False), PLAIN: plain_variant(params.runtime)}
    trainings = {name: build_training(params, data, chosen, iterations=2) for name, chosen in variants.items()}
    batch = paper_batch(workplace, params.runtime)
    mib = step_memory(trainings, variants, batch)  # warms up as well
    seconds = step_seconds(trainings, variants, batch, workplace.few(2), warm_up=False)
    trained = {name: rates(batch.frame_valid.numel(), values) for name, values in seconds.items()}
    seconds = alternately(
        {name: inference(training, [batch]) for name, training in trainings.items()},
        workplace.few(),
        before=switching(variants),
    )
    inferred = {name: rates(batch.frame_valid.numel(), values) for name, values in seconds.items()}
    what = f"{_shape(batch)}, 2 iterations"
    return PAPER.rows(
        [
            row(f"{what}: training step", trained[NETWORK], "frames/s", Values(PLAIN, trained[PLAIN])),
            row(f"{what}: its memory", mib[NETWORK], "MiB", Values(PLAIN, mib[PLAIN])),
            row(f"{what}: inference", inferred[NETWORK], "frames/s", Values(PLAIN, inferred[PLAIN])),
        ]
    )


def memory_variants(runtime: RuntimeSettings) -> dict[str, Variant]:
    """What a training step keeps for its backward pass, from most to least."""
    return {
        PLAIN: plain_variant(runtime),
        NETWORK: variant(runtime, compile=False, checkpoint_iterations=False),
        CHECKPOINTED: variant(runtime, compile=False, checkpoint_iterations=True),
    }


def five_iterations_mib(workplace: Workplace, runtime: RuntimeSettings, batch: ClipBatch) -> dict[str, list[float]]:
    """Peak memory of a step with all iterations and all streams, by the names of `memory_variants`."""
    params, data = paper_params(workplace.params), workplace.prepared_at(PAPER_SIZE)
    mib = {}
    for name, chosen in memory_variants(runtime).items():  # one after the other: they would not fit side by side
        training = build_training(params, data, chosen, iterations=5, streams=STREAMS, multi_scale=True)
        mib[name] = [step_mib(training, batch)]
    return mib


def _five_iterations(workplace: Workplace) -> list[Row]:
    """Memory of a step with all iterations and all streams."""
    runtime = workplace.params.runtime
    batch = paper_batch(workplace, runtime)
    what = f"{_shape(batch)}, 5 iterations, five streams: memory of a step"
    if not uses_gpu(runtime) and psutil.virtual_memory().available < _NEEDED_GIB * 2**30:
        reason = f"needs {_NEEDED_GIB} GiB of free memory"
        return PAPER.rows([not_measured(f"{what}, {name}", "MiB", reason, PLAIN) for name in (NETWORK, CHECKPOINTED)])
    mib = five_iterations_mib(workplace, runtime, batch)
    return PAPER.rows(
        [row(f"{what}, {name}", mib[name], "MiB", Values(PLAIN, mib[PLAIN])) for name in (NETWORK, CHECKPOINTED)]
    )


CASES: Final = (
    Case("paper size, 2 iterations", _two_iterations),
    Case("paper size, 5 iterations, memory", _five_iterations),
)
