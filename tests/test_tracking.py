"""Tracking against real MLflow stores, real processes and a real `dvc repro`."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import mlflow.data
import pytest
from mlflow.entities import Run
from pydantic import BaseModel

from gesturepose.errors import InputError
from gesturepose.provenance import git_state
from gesturepose.tracking import DvcDatasetSource, link_cached_runs, reap_dead_runs, stage_run, tracking_uri
from gesturepose.tracking.store import Store, open_store

SOURCE = Path(__file__).parents[1] / "src"
STAGE_SCRIPT = """\
import sys, time
from pathlib import Path
from pydantic import BaseModel
from ruamel.yaml import YAML
from gesturepose.tracking import stage_run

class Train(BaseModel):
    rate: float

class Settings(BaseModel):
    train: Train

stage, source, target, then = sys.argv[1:]
settings = Settings.model_validate(YAML(typ="safe").load(Path("params.yaml").read_text()))
with stage_run(stage, params=settings, sections=["train"]) as run:
    run.log_dataset("tiny", "5" * 64, Path(source), context="training")
    run.log_metrics({"train/loss": settings.train.rate, "train/error": 3.0}, step=0)
    Path(target).write_text(Path(source).read_text() + str(settings.train.rate))
    run.log_artifact(Path(target))
    print(run.run_id, flush=True)
    if then == "wait":
        time.sleep(120)
    if settings.train.rate > 1:
        raise SystemExit("the rate is too high")
"""
DVC_YAML = """\
stages:
  first:
    cmd: python pipelines/stage.py first data/raw.txt data/first.txt end
    deps: [data/raw.txt, pipelines/stage.py]
    outs: [data/first.txt]
  second:
    cmd: python pipelines/stage.py second data/first.txt data/second.txt end
    deps: [data/first.txt, pipelines/stage.py]
    params: [train]
    outs: [data/second.txt: {cache: false}]
"""
FILES = {
    "dvc.yaml": DVC_YAML,
    "pipelines/stage.py": STAGE_SCRIPT,
    "params.yaml": "train: {rate: 0.25}\n",
    "data/raw.txt": "raw",
    "data/.gitignore": "/first.txt\n/second.txt\n",
    ".gitignore": "/.gesturepose/\n",
}


class Train(BaseModel):
    rate: float = 0.25
    streams: tuple[str, ...] = ("zero", "first_slow")


class Settings(BaseModel):
    train: Train = Train()
    evaluate: dict[str, int] = {"bootstrap": 7}


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "PATH": path}


def shell(root: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start_stage(root: Path, name: str, then: str) -> subprocess.Popen[str]:
    command = [sys.executable, "pipelines/stage.py", name, "data/raw.txt", f"data/{name}.out", then]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=root, env=environment(), stdout=pipe, stderr=pipe, text=True, preexec_fn=heed_ctrl_c
    )


def heed_ctrl_c() -> None:
    """Tests that run in the background have inherited that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def bare_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bare")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    shell(root, "git", "init", "-q", "-b", "trunk")
    for key, value in (("user.email", "someone@example.org"), ("user.name", "Someone")):
        shell(root, "git", "config", key, value)
    shell(root, "dvc", "init", "-q")
    shell(root, "git", "add", "-A")
    shell(root, "git", "commit", "-q", "-m", "first")
    return root


@pytest.fixture(scope="session")
def template(bare_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same project with a store: creating one costs seconds, copying it does not."""
    root = tmp_path_factory.mktemp("migrated") / "project"
    shutil.copytree(bare_template, root)
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, root)
        open_store()
    return root


def isolate(patch: pytest.MonkeyPatch, root: Path) -> None:
    for name in ("DVC_STAGE", "DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_TRACKING_URI"):
        patch.delenv(name, raising=False)
    patch.chdir(root)


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "a project"
    shutil.copytree(template, root)
    isolate(monkeypatch, root)
    return root


def stages(store: Store) -> list[Run]:
    return store.search("tags.`gesturepose.kind` = 'stage'")


def executions(store: Store) -> list[Run]:
    return store.search("tags.`gesturepose.kind` = 'execution'")


def wait(begun: Event) -> None:
    begun.set()
    time.sleep(60)


def only(runs: list[Run]) -> Run:
    assert len(runs) == 1
    return runs[0]


def test_a_pipeline_execution_is_one_parent_with_a_child_per_stage(project: Path) -> None:
    shell(project, "dvc", "repro")
    store = open_store()
    parent = only(executions(store))
    children = {run.info.run_name: run for run in stages(store)}
    commit = shell(project, "git", "rev-parse", "HEAD").strip()
    assert parent.info.status == "FINISHED"
    assert set(children) == {"first", "second"}
    for run in children.values():
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["mlflow.source.git.commit"] == run.data.tags["gesturepose.git.commit"] == commit
        assert run.data.tags["gesturepose.git.dirty"] == "false"  # though dvc.lock is new in the second stage
        assert run.data.params == {"train.rate": "0.25"}
        assert run.data.metrics["train/error"] == 3.0
        assert run.data.metrics["system/cpu_utilization_percentage"] >= 0
    assert len({run.data.tags["gesturepose.fingerprint"] for run in children.values()}) == 2
    assert [file.path for file in store.client.list_artifacts(children["first"].info.run_id)] == ["first.txt"]
    assert len(store.search(f"dataset.digest = '{'5' * 36}'")) == 2

    # Lineage: the results are committed after the runs, so that the new commit has none of its own.
    shell(project, "git", "add", "dvc.lock")
    shell(project, "git", "commit", "-q", "-m", "results")
    links = link_cached_runs()
    assert {link.stage: link.run_id for link in links} == {name: run.info.run_id for name, run in children.items()}
    assert all(link.linked for link in links)
    linked = store.client.get_run(children["second"].info.run_id)
    assert linked.data.tags["gesturepose.commits"] == git_state(project).commit != commit
    assert not any(link.linked for link in link_cached_runs())

    # A failing stage in a second execution.
    (project / "params.yaml").write_text("train: {rate: 2.5}\n")
    assert {link.stage: link.run_id is None for link in link_cached_runs()} == {"first": False, "second": True}
    assert subprocess.run(["dvc", "repro", "-q"], cwd=project, env=environment(), check=False).returncode != 0
    failed = stages(store)[0]
    assert (failed.info.run_name, failed.info.status) == ("second", "FAILED")
    assert "the rate is too high" in failed.data.tags["gesturepose.error"]
    assert failed.data.tags["gesturepose.git.dirty"] == "true"
    patch = store.client.download_artifacts(failed.info.run_id, "git/uncommitted.patch", str(project / "data"))
    assert "+train: {rate: 2.5}" in Path(patch).read_text()
    assert {run.info.status for run in executions(store)} == {"FINISHED", "FAILED"}


def test_four_processes_create_one_store(bare_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "fresh"
    shutil.copytree(bare_template, root)
    isolate(monkeypatch, root)
    processes = [start_stage(root, f"stage{number}", "end") for number in range(4)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    store = open_store()
    assert sorted(run.info.run_name for run in stages(store)) == [f"stage{number}" for number in range(4)]
    assert {run.info.status for run in [*stages(store), *executions(store)]} == {"FINISHED"}
    assert len(executions(store)) == 4  # no dvc process: each is an execution of its own
    assert {error for _, error in outputs} == {""}  # nor does the store's creation make a noise
    assert not (root / "mlruns").exists()
    with contextlib.closing(sqlite3.connect(root / ".gesturepose/mlflow.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_killed_stage_leaves_a_run_that_says_so(project: Path) -> None:
    (project / "dvc.yaml").write_text(DVC_YAML.replace("data/first.txt end", "data/first.txt wait"))
    signals = {"term": signal.SIGTERM, "twice": signal.SIGTERM, "int": signal.SIGINT, "kill": signal.SIGKILL}
    processes = {name: start_stage(project, name, "wait") for name in signals}
    pipe = subprocess.PIPE
    processes["dvc"] = subprocess.Popen(
        ["dvc", "repro", "-q", "first"], cwd=project, env=environment(), stdout=pipe, stderr=pipe, text=True
    )
    for process in processes.values():  # all of them have begun: a stage that begins would reap the killed one
        assert process.stdout is not None and process.stdout.readline().strip()
    for name, process in processes.items():
        process.send_signal(signals.get(name, signal.SIGKILL))
    for _ in range(3):  # while the run is being closed, as torchrun does that a terminal's group has told already
        time.sleep(0.03)
        processes["twice"].send_signal(signal.SIGTERM)
    for process in processes.values():
        process.communicate()  # of dvc: until the stage that it left behind has closed the pipe
    assert processes["term"].returncode == 128 + signal.SIGTERM
    assert processes["twice"].returncode in (
        128 + signal.SIGTERM,
        -signal.SIGTERM,
    )  # the run is closed, then it may end
    store = open_store()
    assert {run.info.run_name: run.info.status for run in stages(store)} == {
        "term": "KILLED",
        "twice": "KILLED",
        "int": "KILLED",
        "kill": "RUNNING",
        "first": "KILLED",
    }
    reaped = reap_dead_runs()
    runs = {run.info.run_name: run for run in stages(store)}
    assert set(reaped) == {runs["kill"].info.run_id, runs["kill"].data.tags["mlflow.parentRunId"]}
    assert runs["kill"].info.status == "KILLED"
    assert runs["term"].data.tags["gesturepose.error"] == "SIGTERM"
    assert [run.info.status for run in executions(store)] == ["FAILED"] * 5
    assert reap_dead_runs() == []


def test_the_reaper_spares_what_lives_and_what_others_own(project: Path) -> None:
    store = open_store()
    foreign = store.client.create_run(store.experiment_id, tags={"who": "another program"})
    with stage_run("first", params=Settings(), sections=["train"]) as run:
        assert reap_dead_runs() == []
        parent = only(executions(store))
        assert parent.info.status == store.client.get_run(run.run_id).info.status == "RUNNING"
    assert only(executions(store)).info.status == "FINISHED"
    assert store.client.get_run(foreign.info.run_id).info.status == "RUNNING"


def test_a_forked_worker_leaves_the_run_alone(project: Path) -> None:
    with stage_run("first", params=Settings(), sections=[]) as run:
        fork = multiprocessing.get_context("fork")
        begun = fork.Event()
        worker = fork.Process(target=wait, args=(begun,))
        worker.start()
        assert begun.wait(60)
        worker.terminate()
        worker.join()
        assert worker.exitcode == -signal.SIGTERM
        run.log_metrics({"loss": 1.0}, step=0)
    assert only(stages(open_store())).info.status == "FINISHED"


def test_an_exception_is_kept_and_passed_on(project: Path) -> None:
    with pytest.raises(ZeroDivisionError), stage_run("first", params=Settings(), sections=["train"]):
        _ = 1 // 0
    with (
        pytest.raises(InputError, match="three columns"),
        stage_run("second", params=Settings(), sections=["train"]),
    ):
        raise InputError("three columns", file="a.txt", line=3)
    second, first = stages(open_store())
    assert (first.info.status, second.info.status) == ("FAILED", "FAILED")
    assert "ZeroDivisionError" in first.data.tags["gesturepose.error"]
    assert second.data.tags["gesturepose.error"] == "a.txt:3: three columns"


def test_a_resumed_run_continues_without_doubled_steps(project: Path) -> None:
    def attempt(epochs: range, *, value: float, resume: bool, rate: float = 0.25) -> str:
        settings = Settings(train=Train(rate=rate))
        with stage_run("second", params=settings, sections=["train"], resume=resume) as run:
            for epoch in epochs:
                run.log_metrics({"loss": value + epoch}, step=epoch)
            if epochs.stop < 5:
                raise RuntimeError("the power fails")
        return run.run_id

    with pytest.raises(RuntimeError):
        attempt(range(3), value=0, resume=True)
    store = open_store()
    first = only(stages(store)).info.run_id
    assert attempt(range(5), value=0, resume=True, rate=0.5) != first  # other settings
    assert attempt(range(5), value=0, resume=False) != first
    assert attempt(range(1, 5), value=100, resume=True) == first
    assert attempt(range(5), value=0, resume=True) != first  # it is finished
    history = store.client.get_metric_history(first, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 0), (1, 1), (2, 2), (3, 103), (4, 104)]
    run = store.client.get_run(first)
    assert (run.info.status, run.data.tags["gesturepose.attempts"]) == ("FINISHED", "2")
    assert "gesturepose.error" not in run.data.tags
    system = store.client.get_metric_history(first, "system/cpu_utilization_percentage")
    assert len({metric.step for metric in system}) == len(system) >= 2


def test_a_run_without_a_known_fingerprint_is_never_resumed(project: Path) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError), stage_run("unlisted", params=Settings(), sections=[], resume=True):
            raise RuntimeError
    assert len(stages(open_store())) == 2


def test_values_of_any_number_are_logged(project: Path) -> None:
    class Wide(BaseModel):
        train: dict[str, int]

    metrics = {f"m{number}": float(number) for number in range(1003)}
    with stage_run("first", params=Wide(train={f"p{n}": n for n in range(107)}), sections=["train"]) as run:
        run.log_metrics(metrics, step=3)
    data = open_store().client.get_run(run.run_id).data
    assert data.params == {f"train.p{number}": str(number) for number in range(107)}
    assert data.metrics.items() >= metrics.items()


def test_final_metrics_are_flattened(project: Path, tmp_path: Path) -> None:
    figure = tmp_path / "curve.png"
    figure.write_bytes(b"\x89PNG")
    result = {
        "gesture": {"accuracy": 0.5, "interval": [0.25, 0.75]},
        "data": {"name": "synthetic", "videos": 7},
        "open": {"auc": float("nan"), "none": None},
    }
    with stage_run("second", params=Settings(), sections=["train", "evaluate"]) as run:
        run.log_final_metrics(result)
        run.log_figure(figure)
        run.log_folder(project / "pipelines", "code")
    client = open_store().client
    data = client.get_run(run.run_id).data
    own = {name: value for name, value in data.metrics.items() if not name.startswith("system/")}
    expected = {"gesture.accuracy": 0.5, "gesture.interval.0": 0.25, "gesture.interval.1": 0.75, "data.videos": 7}
    assert own == expected
    assert data.tags["data.name"] == "synthetic"
    assert data.params == {
        "train.rate": "0.25",
        "train.streams": '["zero", "first_slow"]',
        "evaluate.bootstrap": "7",
    }
    assert [file.path for file in client.list_artifacts(run.run_id, "figures")] == ["figures/curve.png"]
    assert [file.path for file in client.list_artifacts(run.run_id, "code")] == ["code/stage.py"]


def test_the_store_belongs_to_the_main_workspace(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"sqlite:///{project}/.gesturepose/mlflow.db"
    monkeypatch.chdir(project / "data")
    assert tracking_uri() == own
    copy = project / ".dvc/tmp/exps/copy"
    (copy / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(project))
    assert tracking_uri() == own
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    assert tracking_uri() == f"sqlite:///{project}/elsewhere.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri() == "http://127.0.0.1:5000"


def test_a_store_that_does_not_work_is_said_before_the_work(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"
    (project / "garbage.db").write_text("no database\n" * 500)
    for uri in (closed, "sqlite:///garbage.db", "carrier-pigeon://loft"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with (
            pytest.raises(InputError, match=f"{uri.rsplit('/', 1)[-1]}(?s:.*)MLFLOW_TRACKING_URI"),
            stage_run("first", params=Settings(), sections=["train"]),
        ):
            pytest.fail("the stage began")


def test_a_moved_project_keeps_its_artifacts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage_run("first", params=Settings(), sections=[]) as run:
        run.log_artifact(project / "dvc.yaml")
    moved = project.rename(project.with_name("moved"))
    monkeypatch.chdir(moved)
    store = open_store()
    assert Path(store.client.download_artifacts(run.run_id, "dvc.yaml")).read_text() == DVC_YAML
    with stage_run("first", params=Settings(), sections=[]) as run:
        run.log_artifact(moved / "params.yaml")
    assert len(list(moved.glob(".gesturepose/mlartifacts/*/artifacts/*.yaml"))) == 2
    assert not project.exists()


def test_a_deleted_experiment_comes_back(project: Path) -> None:
    store = open_store()
    store.client.delete_experiment(store.experiment_id)
    with stage_run("first", params=Settings(), sections=[]) as run:
        pass
    assert store.client.get_run(run.run_id).info.status == "FINISHED"


def test_a_dataset_leads_back_to_earlier_data(project: Path) -> None:
    (project / "dvc.yaml").write_text(
        "stages:\n  pack:\n    cmd: mkdir -p data/packed && cp data/raw.txt data/packed\n"
        "    deps: [data/raw.txt]\n    outs: [data/packed]\n"
    )
    runs = []
    for text in ("one", "two"):
        (project / "data/raw.txt").write_text(text)
        shell(project, "dvc", "repro", "-q")
        shell(project, "git", "add", "-A")
        shell(project, "git", "commit", "-q", "-m", text)
        with stage_run("train", params=Settings(), sections=[]) as run:
            run.log_dataset("tiny", text * 20, Path("data/packed"))
        runs.append(run.run_id)
    client = open_store().client
    inputs = [client.get_run(run_id).inputs for run_id in runs]
    early, late = (mlflow.data.get_source(each.dataset_inputs[0]) for each in inputs if each is not None)
    assert isinstance(early, DvcDatasetSource) and isinstance(late, DvcDatasetSource)
    assert late.load() == project / "data/packed"
    assert early.load() != project / "data/packed"
    assert (early.load() / "raw.txt").read_text() == "one"
    with pytest.raises(InputError, match="never committed"):
        DvcDatasetSource("data/packed", "0" * 32).load()
    with pytest.raises(InputError, match="gone"):
        DvcDatasetSource("data/nothing", None).load()
