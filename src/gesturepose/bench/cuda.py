"""What only a GPU can show: the paper's training step from plain to a CUDA graph, its memory, loading and rendering."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import torch

from gesturepose.bench.epochs import PAIRS, loading_speed
from gesturepose.bench.measure import Row, Section, Unit, Values, alternately, not_measured, rates, row
from gesturepose.bench.paper import CHECKPOINTED, NETWORK, five_iterations_mib, paper_batch
from gesturepose.bench.rendering import WORKERS, Scene, render_scene, renderers, sample_videos
from gesturepose.bench.steps import compiled_anew, step_seconds
from gesturepose.bench.trainings import (
    PAPER_CLIPS,
    PAPER_FRAMES,
    PAPER_SIZE,
    PLAIN,
    Variant,
    build_training,
    paper_params,
    plain_variant,
    step,
    variant,
)
from gesturepose.bench.workplace import Case, Workplace
from gesturepose.experiment import prepare_execution
from gesturepose.geometry import FPHA_CAMERA
from gesturepose.params import RuntimeSettings
from gesturepose.synthetic.motion import joints_cam_mm

GPU: Final = Section(
    title="On a GPU",
    about=f"The network of the `paper` profile (ResNet-50, C=16), {PAPER_CLIPS} clips of {PAPER_FRAMES} frames of "
    f"{PAPER_SIZE}×{PAPER_SIZE} px, on a GPU whatever params.yaml's device is; {PLAIN} has TF32 off.",
)
_PRECISIONS: Final[dict[str, Precision]] = {
    "network, float32": "float32",
    "network, tf32": "tf32",
    "network, bfloat16": "bfloat16",
}
_COMPILED: Final = "network, bfloat16, CUDA graph"
_WARM_UP_STEPS: Final = 5  # the graphs are recorded within the first three
_RENDERED_VIDEOS: Final = 4
_RENDERED_FRAMES: Final = 64  # of each video
_RENDERED_ON_CPU: Final = 2  # likewise: a picture takes the CPU about as long as all of a video the GPU


@dataclass(frozen=True)
class Line:
    """A row before it is measured."""

    name: str
    unit: Unit
    baseline: str


Precision = Literal["float32", "tf32", "bfloat16"]
Pair = tuple[list[float], list[float]]  # a row's values and its baseline's, repeat by repeat


def _on_gpu(runtime: RuntimeSettings) -> RuntimeSettings:
    return runtime.model_copy(
        update={"device": "cuda", "channels_last": True, "compile": False, "checkpoint_iterations": False}
    )


def _compiled(runtime: RuntimeSettings) -> Variant:
    return variant(_on_gpu(runtime), precision="bfloat16", compile=True)


def _steps(workplace: Workplace) -> list[Pair]:
    params, data = paper_params(workplace.params), workplace.prepared_at(PAPER_SIZE)
    gpu = _on_gpu(params.runtime)
    variants = {
        PLAIN: plain_variant(gpu),
        **{name: variant(gpu, precision=precision) for name, precision in _PRECISIONS.items()},
        _COMPILED: _compiled(params.runtime),
    }
    batch = paper_batch(workplace, gpu)
    trainings = {name: build_training(params, data, chosen, iterations=2) for name, chosen in variants.items()}
    with compiled_anew(workplace.folder / "compiled_on_gpu"):
        prepare_execution(variants[_COMPILED].runtime)
        step(trainings[_COMPILED], batch, _WARM_UP_STEPS)()
        seconds = step_seconds(trainings, variants, batch, workplace.repeats)
    speed = {name: rates(batch.frame_valid.numel(), values) for name, values in seconds.items()}
    return [(speed[name], speed[PLAIN]) for name in (*_PRECISIONS, _COMPILED)]


def _memory(workplace: Workplace) -> list[Pair]:
    gpu = _on_gpu(workplace.params.runtime)
    mib = five_iterations_mib(workplace, gpu, paper_batch(workplace, gpu))
    return [(mib[name], mib[PLAIN]) for name in (NETWORK, CHECKPOINTED)]


def _loading(workplace: Workplace) -> list[Pair]:
    """Beside the fastest step, which would wait the soonest."""
    params = paper_params(workplace.params)
    train = params.train.model_copy(update={"clips_per_batch": PAPER_CLIPS, "segments": PAPER_FRAMES})
    training = build_training(
        params.model_copy(update={"train": train}),
        workplace.prepared_at(PAPER_SIZE),
        _compiled(params.runtime),
        iterations=2,
    )
    with compiled_anew(workplace.folder / "compiled_on_gpu"):
        speed = loading_speed(training, PAIRS * workplace.repeats)
    return [(speed["read"], speed["present"])]


def _rendering(workplace: Workplace) -> list[Pair]:
    """Full-HD pictures of the generator's full set."""

    def scenes(frames: int) -> list[Scene]:
        videos = sample_videos("full", _RENDERED_VIDEOS, _RENDERED_FRAMES)
        return [(joints_cam_mm(video)[:frames], FPHA_CAMERA, video.seed, video.scenario) for video in videos]

    on_gpu, on_cpu = scenes(_RENDERED_FRAMES), scenes(_RENDERED_ON_CPU)
    with renderers(WORKERS) as gpu, renderers(WORKERS) as cpu:
        seconds = alternately(
            {
                "gpu": lambda: list(gpu.map(partial(render_scene, device="cuda"), on_gpu)),
                "cpu": lambda: list(cpu.map(render_scene, on_cpu)),
            },
            workplace.few(),
        )
    return [
        (
            rates(_RENDERED_VIDEOS * _RENDERED_FRAMES, seconds["gpu"]),
            rates(_RENDERED_VIDEOS * _RENDERED_ON_CPU, seconds["cpu"]),
        )
    ]


def _rows(lines: tuple[Line, ...], measure: Callable[[Workplace], list[Pair]], workplace: Workplace) -> list[Row]:
    if not torch.cuda.is_available():
        return GPU.rows([not_measured(line.name, line.unit, "needs a CUDA device", line.baseline) for line in lines])
    pairs = measure(workplace)
    return GPU.rows(
        [
            row(line.name, own, line.unit, Values(line.baseline, other))
            for line, (own, other) in zip(lines, pairs, strict=True)
        ]
    )


def _case(name: str, lines: tuple[Line, ...], measure: Callable[[Workplace], list[Pair]]) -> Case:
    return Case(name, partial(_rows, lines, measure))


def _against_plain(what: str, names: tuple[str, ...], unit: Unit) -> tuple[Line, ...]:
    return tuple(Line(f"{what}, {name}", unit, f"{what}, {PLAIN}") for name in names)


CASES: Final = (
    _case(
        "gpu training step",
        _against_plain("training step, 2 iterations", (*_PRECISIONS, _COMPILED), "frames/s"),
        _steps,
    ),
    _case(
        "gpu memory",
        _against_plain("memory of a step, 5 iterations, five streams", (NETWORK, CHECKPOINTED), "MiB"),
        _memory,
    ),
    _case(
        "gpu loading",
        (
            Line(
                f"training steps on batches that are read, {_COMPILED}",
                "frames/s",
                "training steps on a batch that is there",
            ),
        ),
        _loading,
    ),
    _case(
        "gpu renderer",
        (
            Line(
                f"pictures of the full set, {FPHA_CAMERA.width}x{FPHA_CAMERA.height}, {WORKERS} processes",
                "frames/s",
                f"the first {_RENDERED_ON_CPU} of each video on the CPU, {WORKERS} processes",
            ),
        ),
        _rendering,
    ),
)
