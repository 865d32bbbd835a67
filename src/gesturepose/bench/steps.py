"""Training steps at the size of params.yaml: what each way to compute them buys, and which settings win."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gesturepose.bench.machine import usable_cores
from gesturepose.bench.measure import Measurement, Row, Section, Values, alternately, not_measured, rates, row
from gesturepose.bench.memory import step_mib
from gesturepose.bench.trainings import (
    PLAIN,
    Variant,
    build_training,
    plain_variant,
    step,
    steps_at_once,
    switching,
    variant,
)
from gesturepose.bench.workplace import Case, Workplace
from gesturepose.experiment import Training, prepare_execution, uses_gpu
from gesturepose.noise import random_batch
from gesturepose.params import RuntimeSettings
from gesturepose.structures import ClipBatch

STEP: Final = Section(
    title="Training step",
    about="One optimisation step (augmentation, forward, backward, Adam) at the size of params.yaml, on a fixed batch. "
    f"The baseline, {PLAIN}, is the network as one would write it first (`bench/plain.py`): every 1×1 convolution "
    "computed where the paper has it, five weighted copies of the features through five relation modules, channels "
    "first. It has the network's own parameters, and the same outputs and gradients.",
)
SETTINGS: Final = Section(
    title="Settings, one at a time",
    about="The same step with one setting of params.yaml's runtime section changed; the baseline is params.yaml as it "
    "stands, not compiled.",
)
NETWORK: Final = "network, float32, channels_last"
_STEP: Final = "training step"
_CURRENT: Final = "params.yaml, not compiled"
_COMPILE: Final = "runtime.compile: true"
_ON, _OFF = "deterministic", "not deterministic"


def fixed_batch(workplace: Workplace) -> ClipBatch:
    """Noise, in the shape of the training batches of params.yaml."""
    settings, data = workplace.params.train, workplace.prepared
    return random_batch(settings.clips_per_batch, settings.segments, data.image_size, len(data.gestures))


def step_seconds(
    trainings: Mapping[str, Training],
    variants: Mapping[str, Variant],
    batch: ClipBatch,
    repeats: int,
    *,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Seconds of one step of each training, in turn, each under its own variant's process-wide switches."""
    count = steps_at_once(next(iter(trainings.values())).execution.device)
    seconds = alternately(
        {name: step(training, batch, count) for name, training in trainings.items()},
        repeats,
        warm_up=warm_up,
        before=switching(variants),
    )
    return {name: [value / count for value in values] for name, values in seconds.items()}


def step_memory(
    trainings: Mapping[str, Training], variants: Mapping[str, Variant], batch: ClipBatch
) -> dict[str, list[float]]:
    """The one measurement, in MiB, of the peak memory of each training's step."""
    mib = {}
    for name, training in trainings.items():
        prepare_execution(variants[name].runtime)
        mib[name] = [step_mib(training, batch)]
    return mib


def _speed(
    trainings: Mapping[str, Training], variants: Mapping[str, Variant], batch: ClipBatch, repeats: int
) -> dict[str, list[float]]:
    """Frames a second."""
    seconds = step_seconds(trainings, variants, batch, repeats)
    return {name: rates(batch.frame_valid.numel(), values) for name, values in seconds.items()}


def ladder(runtime: RuntimeSettings) -> dict[str, Variant]:
    """From the plain network to the network at its fastest, uncompiled, with the device and threads of `runtime`."""
    eager = {"precision": "float32", "channels_last": True, "compile": False, "checkpoint_iterations": False}
    return {
        PLAIN: plain_variant(runtime),
        f"{PLAIN}, channels_last": plain_variant(runtime, channels_last=True),
        NETWORK: variant(runtime, **eager),
        "network, bfloat16, channels_last": variant(runtime, **eager | {"precision": "bfloat16"}),
        f"{NETWORK}, checkpoint_iterations": variant(runtime, **eager | {"checkpoint_iterations": True}),
    }


def other_settings(runtime: RuntimeSettings) -> dict[str, Variant]:
    """`runtime` with each setting changed that may make it faster, by the words of its row; uncompiled."""
    precisions = ("float32", "bfloat16", *(("tf32",) if uses_gpu(runtime) else ()))
    choices: dict[str, tuple[Any, ...]] = {
        "precision": tuple(value for value in precisions if value != runtime.precision),
        "channels_last": (not runtime.channels_last,),
        "threads": tuple(value for value in sorted({1, usable_cores()}) if value != runtime.threads),
    }
    return {
        f"runtime.{setting}: {str(value).lower()}": variant(runtime, compile=False, **{setting: value})
        for setting, values in choices.items()
        for value in values
    }


def _training_step(workplace: Workplace) -> list[Row]:
    """The ladder in time and memory, each setting, and what determinism costs."""
    runtime = workplace.params.runtime
    rungs, settings = ladder(runtime), other_settings(runtime)
    variants = {
        **rungs,
        _CURRENT: variant(runtime, compile=False),
        **settings,
        _ON: variant(runtime, compile=False, deterministic=True),
        _OFF: variant(runtime, compile=False, deterministic=False),
    }
    # What stands there under two names is measured once.
    name_of = {chosen: name for name, chosen in reversed(variants.items())}
    distinct = {name: variants[name] for name in name_of.values()}
    trainings = {
        name: build_training(workplace.params, workplace.prepared, chosen) for name, chosen in distinct.items()
    }
    batch = fixed_batch(workplace)
    measured = _speed(trainings, distinct, batch, workplace.repeats)
    speed = {name: measured[name_of[chosen]] for name, chosen in variants.items()}
    mib = step_memory({name: trainings[name_of[chosen]] for name, chosen in rungs.items()}, rungs, batch)

    def against(name: str, baseline: str) -> Measurement:
        return row(f"{_STEP}, {name}", speed[name], "frames/s", Values(f"{_STEP}, {baseline}", speed[baseline]))

    plain_mib = Values(f"its memory, {PLAIN}", mib[PLAIN])
    in_time = [against(name, PLAIN) for name in rungs if name != PLAIN]
    in_memory = [row(f"its memory, {name}", mib[name], "MiB", plain_mib) for name in rungs if name != PLAIN]
    return STEP.rows([*in_time, *in_memory, against(_OFF, _ON)]) + SETTINGS.rows(
        [row(name, speed[name], "frames/s", Values(f"{_STEP}, {_CURRENT}", speed[_CURRENT])) for name in settings]
    )


def _compiled_step(workplace: Workplace) -> list[Row]:
    """The network and its criterion as one compiled program, and how long that takes to make."""
    runtime = workplace.params.runtime
    variants = {
        PLAIN: plain_variant(runtime),
        _CURRENT: variant(runtime, compile=False, checkpoint_iterations=False),
        "compiled": variant(runtime, compile=True, checkpoint_iterations=False),
    }
    what = f"network, {runtime.precision}{', channels_last' if runtime.channels_last else ''}, compiled"
    in_time, in_memory, once, setting = (
        f"{_STEP}, {what}",
        f"its memory, {what}",
        f"{_STEP}, compiling it once",
        _COMPILE,
    )
    plain, now, plain_memory = f"{_STEP}, {PLAIN}", f"{_STEP}, {_CURRENT}", f"its memory, {PLAIN}"
    if not _has_compiler():
        reason = "no C++ compiler"
        lines = [
            not_measured(in_time, "frames/s", reason, plain),
            not_measured(in_memory, "MiB", reason, plain_memory),
            not_measured(once, "s", reason, now),
        ]
        return STEP.rows(lines) + SETTINGS.rows([not_measured(setting, "frames/s", reason, now)])
    trainings = {
        name: build_training(workplace.params, workplace.prepared, chosen) for name, chosen in variants.items()
    }
    batch = fixed_batch(workplace)
    with compiled_anew(workplace.folder / "compiled"):
        prepare_execution(variants["compiled"].runtime)
        start = time.perf_counter()
        step(trainings["compiled"], batch)()
        seconds = [time.perf_counter() - start]
        speed = _speed(trainings, variants, batch, workplace.repeats)
        if uses_gpu(runtime):
            memory = not_measured(in_memory, "MiB", "a CUDA graph keeps its memory from step to step", plain_memory)
        else:
            mib = step_memory({name: trainings[name] for name in (PLAIN, "compiled")}, variants, batch)
            memory = row(in_memory, mib["compiled"], "MiB", Values(plain_memory, mib[PLAIN]))
    one_step = [batch.frame_valid.numel() / speed[_CURRENT][0]]
    lines = [
        row(in_time, speed["compiled"], "frames/s", Values(plain, speed[PLAIN])),
        memory,
        row(once, seconds, "s", Values(now, one_step)),
    ]
    return STEP.rows(lines) + SETTINGS.rows([row(setting, speed["compiled"], "frames/s", Values(now, speed[_CURRENT]))])


@contextmanager
def compiled_anew(cache: Path) -> Iterator[None]:
    """What is compiled in it comes from no cache of earlier runs, and stays in `cache`."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = str(cache)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _has_compiler() -> bool:
    """Whether PyTorch finds the compiler that it needs to make a program."""
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")) is not None


CASES: Final = (Case("training step", _training_step), Case("compiled training step", _compiled_step))
