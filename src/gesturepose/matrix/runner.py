"""Run what a plan says, several dvc processes at once, each for one stage.

DVC lets disjoint stages run side by side as long as each dvc waits for the other's lock while it reads and writes
dvc.lock. The runner says when a stage may start, gives it a GPU, keeps its output in a log of its own, and sees to it
that nothing goes on without the runner.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from gesturepose.errors import InputError
from gesturepose.matrix.cost import CELLS, describe, duration, estimate, value_of
from gesturepose.matrix.plan import Plan, PlannedStage, find_nested, make_plan
from gesturepose.params import PARAMS_FILE, flatten, load_params
from gesturepose.places import job_places
from gesturepose.processes import RUNNER_VARIABLE, Runner, end_marked, runner_mark
from gesturepose.provenance import project_root
from gesturepose.signals import signals_noted
from gesturepose.tracking import FOLDER, finished_stages

if TYPE_CHECKING:
    from subprocess import Popen

_POLL_S = 0.1
_TAIL = 25  # lines
_END_LIMIT_S = 120.0
_NOTHING_DONE = ("didn't change, skipping", "is cached - skipping run")


def run_matrix(name: str, *, jobs: int | None, dry: bool) -> int:
    """Say what the nested pipeline `name` still needs and, unless `dry`, run it.

    Returns:
        The exit code: 0; 1 where a stage failed; 128 and the signal's number after Ctrl-C, SIGTERM or SIGHUP.

    Raises:
        InputError: see `make_plan`; or another runner is at work here.
    """
    root = project_root()
    find_nested(root, name)
    os.chdir(root)  # params.yaml and the stages' paths are the project's
    params = load_params()
    values = dict(flatten(params.model_dump(mode="json")))
    if params.runtime.launcher != "python":
        raise InputError(
            f"runtime.launcher is {params.runtime.launcher!r}, but a matrix gives each stage one GPU or a few threads",
            file=root / PARAMS_FILE,
            hint="Set it to python: cells run side by side. Or run them one after the other with `dvc repro`.",
        )
    cells = CELLS.get(name)
    threads = params.runtime.threads if cells is None else value_of(values, cells.threads)
    places = job_places(params.runtime, threads, jobs)
    if dry:
        _show(make_plan(root, name), values, len(places), root)
        return 0
    mark = runner_mark(f"matrix {name}")
    with _only_runner(root, mark):
        plan = make_plan(root, name)
        _show(plan, values, len(places), root)
        return _run(plan, places, root, mark) if plan.to_run else 0


def _show(plan: Plan, values: dict[str, object], jobs: int, root: Path) -> None:
    estimated = None
    if plan.to_run:
        estimated = estimate(plan, values, finished_stages(), jobs, root)
    print(describe(plan, estimated), flush=True)


@dataclass(frozen=True)
class _Running:
    stage: PlannedStage
    process: Popen[bytes]
    place: int
    begun: float


def _run(plan: Plan, places: Sequence[str | None], root: Path, mark: str) -> int:
    waiting = {stage.address: stage for stage in plan.to_run}
    unfinished = set(waiting)
    running: list[_Running] = []
    failed: list[PlannedStage] = []
    with signals_noted() as received, _bar(len(waiting)) as bar:
        while running or (waiting and not failed):
            if received:
                bar.write(f"{received[0].name}: {len(running)} running stages are told to end")
                break
            if not failed:
                for stage in _startable(waiting, unfinished, [job.stage for job in running], len(places)):
                    place = min(set(range(len(places))) - {job.place for job in running})
                    running.append(_start(waiting.pop(stage.address), place, places[place], root, mark))
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                if job.process.returncode:
                    failed.append(job.stage)
                    bar.write(f"{job.stage.address}: failed after {duration(time.monotonic() - job.begun)}")
                    if len(failed) == 1 and running:
                        bar.write(f"nothing new starts; {len(running)} running stages go on to their end")
                else:
                    unfinished.discard(job.stage.address)
                    bar.update()
                    bar.write(f"{job.stage.address}: {_outcome(job, root)}")
            time.sleep(_POLL_S)
        if received or failed:
            # Of a dvc that was killed, the command may still run.
            end_marked(mark)
            for job in running:
                job.process.wait()
    for stage in failed:
        print(f"\n{stage.address} failed; the end of {log_file(stage)}:\n{_tail(root / log_file(stage))}")
    if received or failed:
        print(f"`gesturepose matrix {plan.name}` goes on from here: {len(unfinished)} stages are left, and a training")
        print("that was cut off is taken up from its last checkpoint.", flush=True)
    return 128 + received[0] if received else 1 if failed else 0


def _startable(
    waiting: dict[str, PlannedStage], unfinished: set[str], running: list[PlannedStage], places: int
) -> list[PlannedStage]:
    """Stages to start now, in the plan's order. One that is not nested runs alone, and holds up those behind it."""
    chosen: list[PlannedStage] = []
    for stage in waiting.values():
        if stage.needs & unfinished:
            continue
        beside = [*running, *chosen]
        if len(beside) == places or not all(other.nested for other in beside):
            break
        if not stage.nested:
            return chosen if beside else [stage]
        chosen.append(stage)
    return chosen


def log_file(stage: PlannedStage) -> Path:
    """Where a stage's output goes, relative to the project: `.gesturepose/logs/weak/pose@weak-0.25-0.log`."""
    return Path(FOLDER) / "logs" / stage.pipeline / f"{stage.address.rpartition(':')[2]}.log"


def _start(stage: PlannedStage, place: int, gpu: str | None, root: Path, mark: str) -> _Running:
    # A stage's `python` is the one that runs this, whether or not its environment is activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = os.environ | {RUNNER_VARIABLE: mark, "PATH": path}
    if gpu is not None and stage.nested:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    log = root / log_file(stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage.address],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C is the runner's alone
        )
    return _Running(stage, process, place, time.monotonic())


def _outcome(job: _Running, root: Path) -> str:
    text = (root / log_file(job.stage)).read_text(errors="replace")
    unchanged = next((words for words in _NOTHING_DONE if words in text), "")
    taken = duration(time.monotonic() - job.begun)
    return f"{taken} (DVC: {unchanged})" if unchanged else taken


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_TAIL:])


def _bar(stages: int) -> tqdm[Any]:
    """With the time that is left, on a terminal."""
    return tqdm(total=stages, desc="stages", unit="stage", disable=None)


@contextmanager
def _only_runner(root: Path, mark: str) -> Iterator[None]:
    """Hold the project's runner lock, with a guard that holds it too and outlives this process.

    Raises:
        InputError: another runner is at work here, or what it left behind does not end.
    """
    path = root / FOLDER / "locks" / "matrix.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, mark.encode(), 0)
        guard = subprocess.Popen(
            [sys.executable, "-m", "gesturepose.matrix.guard", mark],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[descriptor],
        )
        try:
            yield
        finally:
            assert guard.stdin is not None
            guard.stdin.close()
            guard.wait()
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """Take the lock; where a killed runner's guard still holds it, when that has ended what was left running."""
    begun = time.monotonic()
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            mark = os.pread(descriptor, 1000, 0).decode()
        if holder := Runner.from_mark(mark):
            raise InputError(
                f"`gesturepose {holder.name}` already runs here, as process {holder.process.pid}",
                hint="Wait for it, or end it.",
            )
        if time.monotonic() - begun > _END_LIMIT_S:
            raise InputError(
                f"stages of a runner that was killed have not ended within {_END_LIMIT_S:.0f} s",
                file=path,
                hint="Look for them with `ps`, and end them.",
            )
        if not told:
            told = True
            print("waiting for the stages of a runner that was killed to end", flush=True)
        time.sleep(_POLL_S)
