"""How long a plan takes and how much disk, before it starts: from finished runs, or else from measured steps."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gesturepose.errors import InputError
from gesturepose.matrix.plan import PIPELINES, Plan, PlannedStage
from gesturepose.params import PARAMS_FILE
from gesturepose.tracking import FinishedStage

_NEWEST = 5  # finished runs whose median counts
# What a stage's time depends on, among what runs log: the network, and values with these names in any section.
_COSTLY = (
    "clips_per_batch", "compile", "device", "epochs", "finetune_steps", "image_size", "labelled_clips", "precision",
    "segments", "size", "steps", "threads", "train_steps", "unlabelled_clips",
)  # fmt: skip
Values = Mapping[str, Any]  # params.yaml by dotted keys


@dataclass(frozen=True)
class Training:
    """What a cell trains; the values are keys of params.yaml."""

    network: Literal["trunk", "whole"]
    steps: tuple[str, ...]  # they add up
    clips_per_batch: tuple[str, ...]  # they too
    segments: str


@dataclass(frozen=True)
class Cells:
    """What is known of a nested pipeline beyond its dvc.yaml; the values are keys of params.yaml."""

    threads: str
    trainings: Mapping[str, Training]  # by the stage's name without the cell


_FINETUNE = ("weak.finetune_steps",)
_TRAIN = ("weak.train_steps",)
_LABELLED = ("weak.labelled_clips",)
_ALL_CLIPS = ("weak.labelled_clips", "weak.unlabelled_clips")
_ROW = ("ablation.train_steps",)
_ROW_CLIPS = ("ablation.clips_per_batch",)
CELLS: Mapping[str, Cells] = {
    "weak": Cells(
        threads="weak.threads",
        trainings={
            "finetune": Training("trunk", _FINETUNE, _LABELLED, "weak.segments"),
            "finetune_all": Training("trunk", _FINETUNE, _LABELLED, "weak.segments"),
            "pose_baseline": Training("whole", _TRAIN, _LABELLED, "weak.segments"),
            "pose_weak": Training("whole", _TRAIN, _ALL_CLIPS, "weak.segments"),
            # the teacher's own forward passes come on top
            "pose_teacher": Training("whole", _TRAIN, _ALL_CLIPS, "weak.segments"),
            "gesture_weak": Training("whole", _TRAIN, _ALL_CLIPS, "weak.segments"),
            # see weak.weak_training
            "gesture_baseline": Training("whole", _TRAIN + _FINETUNE, _LABELLED, "weak.segments"),
        },
    ),
    # The rows differ: five iterations take longer than one. What is measured is the network of params.yaml.
    "ablation": Cells(
        threads="ablation.threads",
        trainings={
            "finetune": Training("trunk", _FINETUNE, _LABELLED, "weak.segments"),  # as section weak says
            "cell": Training("whole", _ROW, _ROW_CLIPS, "ablation.segments"),
            "cell_crop": Training("whole", _ROW, _ROW_CLIPS, "ablation.segments"),
            # An LSTM alone is done much sooner, the colour stream later: it is what runs say that counts.
            "reference": Training("trunk", _ROW, _ROW_CLIPS, "ablation.segments"),
            "reference_pose": Training("trunk", _ROW, _ROW_CLIPS, "ablation.segments"),
            # see references.cells
            "reference_flow": Training("trunk", _ROW + _FINETUNE, _ROW_CLIPS, "ablation.segments"),
        },
    ),
}


@dataclass(frozen=True)
class GroupCost:
    """One stage of a group; `seconds` is None where nothing is known but that it starts."""

    seconds: float | None
    source: Literal["runs", "steps", "nothing"]
    weight_bytes: int | None  # of the network that it trains, where it trains one


@dataclass(frozen=True)
class Estimate:
    """Of all that a plan runs."""

    groups: Mapping[str, GroupCost]
    start_seconds: float  # of each stage, measured: dvc's start, and PyTorch's where stages train
    jobs: int
    seconds: float
    least_seconds: float  # where stages leave their files as they were, so that what is after them is skipped
    disk_bytes: int
    unsized: int  # stages whose outs' sizes are not known


def value_of(values: Values, key: str) -> int:
    """A whole number of params.yaml.

    Raises:
        InputError: the key is not there.
    """
    if not isinstance(values.get(key), int):
        raise InputError(f"{key} is not there, or no whole number", file=PARAMS_FILE, hint="Restore it from git.")
    return int(values[key])


def estimate(
    plan: Plan,
    values: Values,
    finished: Sequence[FinishedStage],
    jobs: int,
    root: Path,
    known: Mapping[str, Cells] = CELLS,
) -> Estimate:
    """What `plan.to_run` takes, `jobs` nested stages at once.

    Args:
        values: of params.yaml, as the stages would log them.
        finished: earlier runs on this host, newest first.
        known: what trains in nested pipelines; only asked where no run is like a stage.

    Raises:
        InputError: the measurement fails, with its message.
    """
    of_group: dict[str, list[PlannedStage]] = {}
    for stage in plan.to_run:
        of_group.setdefault(stage.group, []).append(stage)
    medians = {group: _median(group, values, finished) for group in of_group}
    trainings: dict[str, Training] = {}
    questions: list[dict[str, Any]] = []
    for group, stages in of_group.items():
        cells = known.get(stages[0].pipeline)
        training = cells.trainings.get(group.rpartition(":")[2]) if cells else None
        if cells and training:
            trainings[group] = training
            questions.append(_question(training, cells, values, measure=medians[group] is None))
    answers, start_seconds = _ask(root, questions, plan.to_run[0].address)
    groups: dict[str, GroupCost] = {}
    for group, median in medians.items():
        answer = answers[list(trainings).index(group)] if group in trainings else None
        weight_bytes = answer["weight_bytes"] if answer else None
        if median is not None:
            groups[group] = GroupCost(median, "runs", weight_bytes)
        elif answer:
            steps = sum(value_of(values, key) for key in trainings[group].steps)
            groups[group] = GroupCost(steps * answer["step_seconds"], "steps", weight_bytes)
        else:
            groups[group] = GroupCost(None, "nothing", None)

    def seconds(stages: Sequence[PlannedStage]) -> float:
        taken = {stage: start_seconds + (groups[stage.group].seconds or 0.0) for stage in stages}
        nested = [value for stage, value in taken.items() if stage.nested]
        return sum(taken.values()) - sum(nested) + max(sum(nested) / jobs, *nested, 0.0)

    sizes = [
        stage.known_bytes if stage.known_bytes is not None else groups[stage.group].weight_bytes
        for stage in plan.to_run
    ]
    return Estimate(
        groups=groups,
        start_seconds=start_seconds,
        jobs=jobs,
        seconds=seconds(plan.to_run),
        least_seconds=seconds([stage for stage in plan.to_run if stage.changed]),
        disk_bytes=sum(size for size in sizes if size is not None),
        unsized=sizes.count(None),
    )


def describe(plan: Plan, estimated: Estimate | None) -> str:
    """A few lines for the terminal; without an estimate where nothing runs."""
    running = plan.to_run
    total = len(plan.stages)
    counts = f"{plan.name}: {total} stages with all upstream, {total - len(running)} up to date, {len(running)} to run"
    if estimated is None:
        return counts
    lines = [counts, f"  {'stages':<20}{'in all':>7}{'to run':>8}  each"]
    for group in dict.fromkeys(stage.group for stage in plan.stages):
        in_all = sum(stage.group == group for stage in plan.stages)
        to_run = sum(stage.group == group for stage in running)
        cost = estimated.groups.get(group)
        each = ""
        if cost is not None:
            each = "never run here" if cost.seconds is None else duration(cost.seconds + estimated.start_seconds)
        lines.append(f"  {_title(group, plan):<20}{in_all:>7}{to_run:>8}  {each}".rstrip())
    perhaps = [stage for stage in running if not stage.changed]
    spans = dict.fromkeys(map(duration, (estimated.least_seconds if perhaps else estimated.seconds, estimated.seconds)))
    lines.append(f"time: about {' to '.join(spans)}, {estimated.jobs} at once")
    if perhaps:
        lines.append(
            f"  {len(perhaps)} of the stages are skipped where those before them leave their files as they were"
        )
    lines += [f"  {line}" for line in _basis(plan, estimated)]
    unsized = f", without {estimated.unsized} stages that have not run yet" if estimated.unsized else ""
    lines.append(
        f"disk: about {estimated.disk_bytes / 1e6:,.1f} MB of results{unsized}; "
        "as much again where DVC's cache cannot share files with the workspace"
    )
    return "\n".join(lines)


def _title(group: str, plan: Plan) -> str:
    """Without the file, in the plan's own pipeline."""
    return group.removeprefix(f"{PIPELINES}/{plan.name}/dvc.yaml:")


def _basis(plan: Plan, estimated: Estimate) -> list[str]:
    """Where the time comes from, and what is not in it."""
    words = {
        "runs": "from finished runs on this host",
        "steps": "reckoned from a few training steps measured just now",
    }
    known: list[str] = []
    for source, text in words.items():
        of_source = [_title(group, plan) for group, cost in estimated.groups.items() if cost.source == source]
        if of_source:
            known.append(f"{', '.join(of_source)}: {text}")
    unknown = [_title(group, plan) for group, cost in estimated.groups.items() if cost.source == "nothing"]
    if unknown:
        known.append(f"{', '.join(unknown)}: nothing known but {estimated.start_seconds:.1f} s of start-up")
    return known


def duration(seconds: float) -> str:
    """Such as `8 s`, `12 min` or `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _median(group: str, values: Values, finished: Sequence[FinishedStage]) -> float | None:
    """Seconds of the newest runs of a group's stages that were logged with the present costly settings."""
    like = [
        run.seconds
        for run in finished
        if run.address.partition("@")[0] == group and all(_same(key, run, values) for key in filter(_costs, run.params))
    ]
    return statistics.median(like[:_NEWEST]) if like else None


def _costs(key: str) -> bool:
    return key.startswith("network.") or key.rpartition(".")[2] in _COSTLY


def _same(key: str, run: FinishedStage, values: Values) -> bool:
    if key not in values:
        return False
    value = values[key]
    return run.params[key] == (value if isinstance(value, str) else json.dumps(value))


def _question(training: Training, cells: Cells, values: Values, *, measure: bool) -> dict[str, Any]:
    return {
        "network": training.network,
        "clips_per_batch": sum(value_of(values, key) for key in training.clips_per_batch),
        "segments": value_of(values, training.segments),
        "threads": value_of(values, cells.threads),
        "measure": measure,
    }


def _ask(root: Path, questions: Sequence[Mapping[str, Any]], address: str) -> tuple[list[dict[str, Any]], float]:
    """The probe's answers, and the seconds that dvc takes to start; those of PyTorch too, where the probe is asked."""
    dry = ["-m", "dvc", "--wait-for-lock", "repro", "--dry", "--single-item", address]
    _, dvc_seconds = _timed(root, dry, "", "`dvc repro --dry`")
    if not questions:
        return [], dvc_seconds
    distinct = list({json.dumps(question): None for question in questions})
    probe, probe_seconds = _timed(
        root, ["-m", "gesturepose.matrix.probe"], f"[{', '.join(distinct)}]", "measuring training steps"
    )
    result = json.loads(probe)
    answers = [result["answers"][distinct.index(json.dumps(question))] for question in questions]
    return answers, dvc_seconds + probe_seconds - result["seconds"]


def _timed(root: Path, arguments: Sequence[str], text: str, what: str) -> tuple[str, float]:
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"{what} failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout, time.perf_counter() - begun
