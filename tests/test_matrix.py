"""`gesturepose matrix` with real dvc processes, a real store and real signals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from gesturepose import processes
from gesturepose.cli import main
from gesturepose.experiment import build_network, build_trunk
from gesturepose.matrix.cost import CELLS, Cells, Training, describe, duration, estimate
from gesturepose.matrix.plan import Plan, PlannedStage, make_plan
from gesturepose.matrix.runner import log_file
from gesturepose.params import Params, apply_profile, flatten, load_params
from gesturepose.places import job_places
from gesturepose.processes import RUNNER_VARIABLE, end_marked
from gesturepose.tracking import FinishedStage
from gesturepose.tracking.store import open_store
from test_tracking import bare_template, environment, executions, isolate, shell, stages, template

FIXTURES = (bare_template, template)  # pytest finds them by their names here
PROJECT = Path(__file__).parent.parent
LIMIT_S = 120.0  # only for a process that hangs
CELL = """\
import sys, time
from pathlib import Path
source, target = sys.argv[1:]
Path("ran").open("a").write(target + "\\n")
if target in Path("held").read_text().split():
    Path(f"{target}.begun").touch()
    time.sleep(300)
if target in Path("broken").read_text().split():
    raise SystemExit(f"no luck with {target}")
Path(target).write_text(Path(source).read_text() + target + "\\n")
"""
TRACKED = """\
import runpy
from gesturepose.params import load_params
from gesturepose.tracking import stage_run
with stage_run("cell", params=load_params(), sections=["train"]):
    runpy.run_path("pipelines/cell.py", run_name="__main__")
"""
ROOT_YAML = """\
stages:
  prepare:
    cmd: python pipelines/cell.py data/raw.txt prepared.txt
    deps: [data/raw.txt, pipelines/cell.py]
    outs: [prepared.txt]
"""
CELLS_YAML = """\
stages:
  cell:
    wdir: ../..
    matrix: {number: [0, 1, 2, 3, 4, 5]}
    cmd: python pipelines/cell.py prepared.txt cell${item.number}.txt
    deps: [prepared.txt]
    outs: ["cell${item.number}.txt"]
  tracked:
    wdir: ../..
    matrix: {number: [6, 7]}
    cmd: python pipelines/tracked.py prepared.txt cell${item.number}.txt
    deps: [prepared.txt]
    outs: ["cell${item.number}.txt"]
  collect:
    wdir: ../..
    cmd: cat cell0.txt cell1.txt cell2.txt cell3.txt cell4.txt cell5.txt cell6.txt cell7.txt > all.txt
    deps: [cell0.txt, cell1.txt, cell2.txt, cell3.txt, cell4.txt, cell5.txt, cell6.txt, cell7.txt]
    outs: [all.txt: {cache: false}]
"""
ADDRESS = "pipelines/cells/dvc.yaml"


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a root stage and a nested pipeline of eight cells and a last stage, nothing of it run."""
    root = Path(shutil.copytree(template, tmp_path / "project"))
    files = {"dvc.yaml": ROOT_YAML, f"{ADDRESS}": CELLS_YAML, "held": "", "broken": "", "ran": ""}
    files |= {"pipelines/cell.py": CELL, "pipelines/tracked.py": TRACKED}
    files |= {"params.yaml": (PROJECT / "params.yaml").read_text().replace("device: auto", "device: cpu")}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    apply_profile("test", root / "params.yaml")
    with (root / ".gitignore").open("a") as ignored:
        ignored.write("/held\n/broken\n/ran\n*.begun\n")
    shell(root, "git", "add", "-A")
    shell(root, "git", "commit", "-q", "-m", "nested")
    isolate(monkeypatch, root)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    return root


@pytest.fixture
def matrix(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The command with these arguments → exit code and what it said."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["gesturepose", "matrix", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        captured = capfd.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return int(end.value.code or 0), captured.out + captured.err

    return run


@pytest.fixture
def start(project: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """The command as a process of its own, which is ended with what it started."""
    started: list[subprocess.Popen[str]] = []

    def run() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "gesturepose.cli", "matrix", "cells", "--jobs", "2"]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=project, stdout=pipe, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()
    wait_for(lambda: not marked(project))


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def marked(root: Path) -> list[psutil.Process]:
    """What a runner started in this folder and still lives, of any runner."""
    found = []
    for process in psutil.process_iter():
        try:
            if RUNNER_VARIABLE in process.environ() and Path(process.cwd()) == root:
                found.append(process)
        except psutil.Error:
            continue
    return found


def ran(root: Path) -> list[str]:
    """The outs whose commands have begun since the last call."""
    lines = (root / "ran").read_text().split()
    (root / "ran").write_text("")
    return sorted(name.removesuffix(".txt") for name in lines)


def test_interrupted_killed_failed_and_taken_up_until_all_is_done(
    project: Path, matrix: Callable[..., tuple[int, str]], start: Callable[[], subprocess.Popen[str]]
) -> None:
    cells = [f"cell{number}" for number in range(8)]

    # SIGTERM while two cells run: they end, nothing stays behind, the root stage is kept.
    (project / "held").write_text("cell0.txt cell1.txt cell6.txt cell7.txt")
    (project / "broken").write_text("cell2.txt cell3.txt cell4.txt cell5.txt")
    begun = [project / "cell0.txt.begun", project / "cell1.txt.begun"]
    runner = start()
    wait_for(lambda: all(file.exists() for file in begun))
    code, said = matrix("cells")
    assert code == 2 and f"`gesturepose matrix cells` already runs here, as process {runner.pid}" in said
    runner.terminate()
    said, _ = runner.communicate(timeout=LIMIT_S)
    assert runner.returncode == 128 + signal.SIGTERM
    assert "`gesturepose matrix cells` goes on from here: 9 stages are left" in said
    assert not marked(project)
    assert ran(project) == ["cell0", "cell1", "prepared"]
    assert list(yaml.safe_load((project / "dvc.lock").read_text())["stages"]) == ["prepare"]

    # SIGKILL of the runner itself: what it started does not live on, and a rerun does not run beside it.
    for file in begun:
        file.unlink()
    runner = start()
    wait_for(lambda: all(file.exists() for file in begun))
    runner.kill()
    runner.wait()
    (project / "held").write_text("")
    (project / "broken").write_text("cell0.txt")
    code, said = matrix("cells", "--jobs", 2)
    assert code == 1, said
    assert "10 stages with all upstream, 1 up to date, 9 to run" in said
    assert f"{ADDRESS}:cell@0 failed; the end of .gesturepose/logs/cells/cell@0.log" in said
    assert "no luck with cell0.txt" in said
    assert not marked(project)
    assert ran(project)[:4] == ["cell0", "cell0", "cell1", "cell1"]  # held and killed, then to the end
    assert (project / "cell1.txt").exists(), "what ran beside it goes on to its end"
    assert not (project / "all.txt").exists() and not (project / "cell7.txt").exists(), "nothing new started"

    # The same command does what is left and nothing else; then there is nothing left.
    (project / "broken").write_text("")
    left = {cell for cell in cells if not (project / f"{cell}.txt").exists()}
    assert left >= {"cell0", "cell6", "cell7"}
    code, said = matrix("cells", "--jobs", 4)
    assert code == 0, said
    assert f"{9 - len(left)} up to date, {len(left) + 1} to run" in said
    assert set(ran(project)) == left
    assert (project / "all.txt").read_text().split()[1::2] == [f"{cell}.txt" for cell in cells]
    assert shell(project, "dvc", "status", "-q") == ""
    locked = yaml.safe_load((project / "pipelines/cells/dvc.lock").read_text())["stages"]
    assert sorted(locked) == sorted(["collect", *(f"cell@{n}" for n in range(6)), "tracked@6", "tracked@7"])
    code, said = matrix("cells")
    assert code == 0 and "10 up to date, 0 to run" in said
    assert ran(project) == []

    # Several dvc processes of one runner are one execution.
    store = open_store()
    finished = [run for run in stages(store) if run.info.status == "FINISHED"]
    assert sorted(run.data.tags["gesturepose.dvc.stage"] for run in finished) == [
        f"{ADDRESS}:tracked@6",
        f"{ADDRESS}:tracked@7",
    ]
    (parent,) = executions(store)
    assert {run.data.tags["mlflow.parentRunId"] for run in finished} == {parent.info.run_id}
    commit = shell(project, "git", "rev-parse", "HEAD").strip()
    assert (parent.info.run_name, parent.info.status) == (f"matrix cells {commit[:7]}", "FINISHED")
    # Whoever is no descendant of the runner that the environment names is one of its own.
    foreign = os.environ | {RUNNER_VARIABLE: f"{os.getpid() + 10_000_000} 1.00 matrix other"}
    script = [sys.executable, "pipelines/tracked.py", "data/raw.txt", "alone.txt"]
    subprocess.run(script, cwd=project, env=foreign, check=True)
    assert [str(run.info.run_name).rpartition(" ")[0] for run in executions(store)] == ["single stage", "matrix cells"]
    assert ran(project) == ["alone"]

    # What they took is the estimate of the next time; a dry run touches nothing.
    (project / "data/raw.txt").write_text("other")
    (project / "dvc.yaml").write_text(ROOT_YAML.replace("    outs", "    frozen: true\n    outs"))
    (project / "cell6.txt").unlink()
    code, said = matrix("cells", "--dry")
    assert code == 0
    assert "10 stages with all upstream, 8 up to date, 2 to run" in said  # prepare is frozen
    assert "tracked: from finished runs on this host" in said
    (project / "dvc.yaml").write_text(ROOT_YAML)
    assert [stage.address for stage in make_plan(project, "cells").to_run if stage.needs <= {"prepare"}] == [
        "prepare",
        *(f"{ADDRESS}:cell@{number}" for number in range(6)),
        *(f"{ADDRESS}:tracked@{number}" for number in (6, 7)),
    ]
    assert ran(project) == [] and not (project / "cell6.txt").exists()


def test_mistakes_are_named(project: Path, matrix: Callable[..., tuple[int, str]]) -> None:
    code, said = matrix("cels")
    assert code == 2 and "no nested pipeline 'cels'; there are cells" in said and "Did you mean cells?" in said
    code, said = matrix("cells", "--jobs", 0)
    assert code == 2 and ("x>=1" in said or "greater than or equal to 1" in said)
    with pytest.raises(BaseException, match="no nested pipeline 'cells'"):
        make_plan(project / "data", "cells")

    # A dvc that runs a stage of the plan.
    (project / "held").write_text("prepared.txt")
    dvc = subprocess.Popen(["dvc", "repro", "-q"], cwd=project, start_new_session=True)
    wait_for((project / "prepared.txt.begun").exists)
    code, said = matrix("cells", "--dry")
    os.killpg(dvc.pid, signal.SIGKILL)
    dvc.wait()
    assert code == 2 and "prepared.txt' is busy" in said and str(dvc.pid) in said

    (project / ADDRESS).write_text(CELLS_YAML.replace("outs: [all", "out: [all"))
    code, said = matrix("cells")
    assert code == 2 and "DVC cannot read the pipelines" in said and ADDRESS in said
    (project / ADDRESS).write_text("stages: {}\n")
    code, said = matrix("cells")
    assert code == 2 and f"{ADDRESS}: no stage" in said
    assert not (project / ".gesturepose/logs").exists()


def test_what_ignores_the_signal_is_killed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_KILL_AFTER_S", 0.3)
    mark = f"{os.getpid()} 1.00 matrix deaf"
    command = ["sh", "-c", "trap '' TERM; echo ready; while true; do sleep 0.1; done"]
    with subprocess.Popen(command, env=os.environ | {RUNNER_VARIABLE: mark}, stdout=subprocess.PIPE) as deaf:
        assert deaf.stdout is not None and deaf.stdout.readline() == b"ready\n"
        end_marked(mark)
        assert deaf.wait() == -signal.SIGKILL


def planned(address: str, *, known_bytes: int | None = None, changed: bool = True) -> PlannedStage:
    pipeline = address.partition("/dvc.yaml:")[0].removeprefix("pipelines/") if ":" in address else ""
    return PlannedStage(address, pipeline, frozenset(), changed, runs=True, known_bytes=known_bytes)


def test_an_estimate_takes_runs_with_the_present_settings_before_measured_steps(project: Path, params: Params) -> None:
    cells = Cells(
        threads="runtime.threads",
        trainings={
            "cell": Training(
                "whole",
                ("train.epochs", "evaluate.bootstrap"),
                ("train.clips_per_batch", "finetune.clips_per_batch"),
                "train.segments",
            ),
            "other": Training("trunk", ("finetune.epochs",), ("finetune.clips_per_batch",), "finetune.segments"),
        },
    )
    addresses = [*(f"{ADDRESS}:cell@{number}" for number in range(5)), f"{ADDRESS}:other@0", f"{ADDRESS}:other@1"]
    plan = Plan("cells", (planned("prepare", known_bytes=1_000_000), *map(planned, addresses)))
    values = dict(flatten(params.model_dump(mode="json")))
    present = {"train.epochs": str(params.train.epochs), "train.seed": "77", "runtime.device": params.runtime.device}
    finished = [
        FinishedStage(f"{ADDRESS}:cell@9", seconds, present) for seconds in (3.0, 500.0, 5.0, 4.0, 600.0, 7.0, 8.0)
    ]
    finished.insert(0, FinishedStage(f"{ADDRESS}:cell@9", 9000.0, present | {"train.epochs": "77"}))
    finished.insert(0, FinishedStage("cell@9", 9000.0, present))  # of another dvc.yaml
    finished.insert(0, FinishedStage("prepare", 100.0, {}))
    found = estimate(plan, values, finished, 3, project, {"cells": cells})
    assert {group: cost.source for group, cost in found.groups.items()} == {
        "prepare": "runs",
        f"{ADDRESS}:cell": "runs",
        f"{ADDRESS}:other": "steps",
    }
    assert found.groups[f"{ADDRESS}:cell"].seconds == 5.0  # the median of the newest five
    other = found.groups[f"{ADDRESS}:other"].seconds
    assert other is not None and other > 0 and found.start_seconds > 0
    nested = 5 * 5.0 + 2 * other + 7 * found.start_seconds
    longest = max(5.0, other) + found.start_seconds
    assert found.seconds == pytest.approx(100.0 + found.start_seconds + max(nested / 3, longest))
    assert found.least_seconds == found.seconds
    perhaps = Plan("cells", (planned("prepare"), *(planned(address, changed=False) for address in addresses)))
    least = estimate(perhaps, values, finished, 3, project, {"cells": cells})
    assert least.least_seconds == pytest.approx(100.0 + least.start_seconds) and least.seconds > least.least_seconds + 5
    said = describe(perhaps, replace(least, least_seconds=20.0, seconds=100.0))
    assert "time: about 20 s to 2 min, 3 at once" in said
    assert "time: about 2 min, 3 at once" in describe(perhaps, replace(least, least_seconds=110.0, seconds=120.0))
    assert "7 of the stages are skipped where" in said and "are skipped" not in describe(plan, found)
    trunk = build_trunk(params.network)
    network = build_network(params.network, trunk, gestures=45, image_size=params.prepare.image_size)
    size_of_trunk, size_of_network = size(trunk), size(network)
    assert size_of_network > size_of_trunk
    assert found.disk_bytes == 1_000_000 + 5 * size_of_network + 2 * size_of_trunk
    assert found.unsized == 0


def size(network: torch.nn.Module) -> int:
    return sum(len(tensor.numpy().tobytes()) for tensor in network.state_dict().values())


def test_what_is_known_of_a_nested_pipeline_is_in_its_files() -> None:
    values = dict(flatten(load_params(PROJECT / "params.yaml").model_dump(mode="json")))
    assert CELLS
    for name, cells in CELLS.items():
        declared = yaml.safe_load((PROJECT / "pipelines" / name / "dvc.yaml").read_text())["stages"]
        launched = {stage for stage, entry in declared.items() if entry["cmd"].startswith("${runtime.launcher}")}
        assert set(cells.trainings) == launched - {"evaluate"}
        keys = {cells.threads}
        for training in cells.trainings.values():
            keys |= {*training.steps, *training.clips_per_batch, training.segments}
        assert all(isinstance(values[key], int) for key in keys)


def test_places_follow_cores_and_gpus(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    on_cpu = params.runtime.model_copy(update={"device": "cpu"})
    assert job_places(on_cpu, 1, None) == [None] * cores
    assert job_places(on_cpu, cores + 1, None) == [None]
    assert job_places(on_cpu, cores + 1, 3) == [None] * 3
    if not torch.cuda.is_available():
        return
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus = [str(number) for number in range(torch.cuda.device_count())]
    on_gpu = params.runtime.model_copy(update={"device": "auto"})
    assert job_places(on_gpu, 1, None) == gpus
    assert job_places(on_gpu, 1, 2 * len(gpus)) == gpus * 2


def test_logs_and_times_have_readable_names() -> None:
    assert log_file(planned("prepare")) == Path(".gesturepose/logs/prepare.log")
    nested = planned("pipelines/weak/deep/dvc.yaml:pose@weak-0.25-0")
    assert log_file(nested) == Path(".gesturepose/logs/weak/deep/pose@weak-0.25-0.log")
    assert [duration(seconds) for seconds in (7.4, 89, 91, 5370, 5430, 11_100)] == [
        "7 s", "89 s", "2 min", "1 h 30 min", "1 h 30 min", "3 h 05 min",
    ]  # fmt: skip
