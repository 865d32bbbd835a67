"""`gesturepose search` and `promote` with real processes, a real journal, a real MLflow store, real DVC."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from gesturepose.errors import InputError
from gesturepose.params import load_params, set_values
from gesturepose.search.promote import promote
from project import commit, edit, run

LIMIT_S = 240.0  # only for a process that hangs


@pytest.fixture
def project(prepared_project, tmp_path):
    """The `test` profile with its data prepared, and short trials."""
    folder = tmp_path / "project"
    shutil.copytree(prepared_project, folder, symlinks=True)
    short = {"search.fixed": {}, "search.trials": 4, "search.unpruned_epochs": 3, "search.random_trials": 2}
    set_values(short, folder / "params.yaml")
    commit(folder, "short")
    return folder


def study_of(folder):
    """As Optuna's own tools open it."""
    storage = JournalStorage(JournalFileBackend(str(folder / ".gesturepose/studies.journal")))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def trained(folder, epochs):
    """A running trial that has so many epochs, if there is one."""
    if not (folder / ".gesturepose/studies.journal").exists():
        return None
    try:
        running = [trial for trial in study_of(folder).trials if trial.state.name == "RUNNING"]
    except ValueError:  # not created yet
        return None
    return next((t for t in running if len(t.user_attrs.get("gesturepose.curve", {})) >= epochs), None)


def runs_of(folder):
    client = MlflowClient(f"sqlite:///{folder}/.gesturepose/mlflow.db")
    experiment = client.get_experiment_by_name("gesturepose")
    runs = client.search_runs([experiment.experiment_id], max_results=500)
    of_kind = {kind: [r for r in runs if r.data.tags.get("gesturepose.kind") == kind] for kind in ("study", "trial")}
    return client, of_kind["study"], {int(r.data.tags["gesturepose.trial"]): r for r in of_kind["trial"]}


def start(folder, *arguments, **variables):
    names = ("DVC_", "MLFLOW_", "OPTUNA_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    return subprocess.Popen(
        [sys.executable, "-m", "gesturepose.cli", "search", *arguments],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition):
    begun = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - begun < LIMIT_S, "it hangs"
        time.sleep(0.1)
    return found


def values(study):
    return [(trial.params, trial.values, trial.state) for trial in study.trials]


def test_two_workers_keep_every_trial_and_the_tools_agree(project):
    done = run("gesturepose", "search", "--workers", "2", cwd=project)
    study = study_of(project)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    _, (parent,), trials = runs_of(project)
    assert parent.info.status == "FINISHED" and sorted(trials) == [0, 1, 2, 3]
    for number, trial in trials.items():
        assert (trial.info.status, trial.data.tags["gesturepose.trial.state"]) == ("FINISHED", "COMPLETE")
        assert trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert trial.data.metrics["kept/value"] == study.trials[number].value
    found = json.loads((project / f".gesturepose/studies/{study.study_name}/metrics.json").read_text())
    told = run(
        "optuna", "best-trial", "--study-name", study.study_name, "-f", "json",
        "--storage", ".gesturepose/studies.journal", cwd=project,
    ).stdout  # fmt: skip
    best = json.loads(told)
    assert [trial["trial"] for trial in found["best"]] == [best["number"]] == [study.best_trial.number]
    assert parent.data.metrics["best/trial"] == best["number"] and f"best trial {best['number']}" in done.stdout
    page = (project / f".gesturepose/studies/{study.study_name}/index.html").read_text()
    assert f"best trial {best['number']}" in page and "http" not in page.replace("http-equiv", "")
    assert set(found["importances"]) == set(load_params(project / "params.yaml").search.space)

    # The same command trains nothing more, and writes the same page.
    run("gesturepose", "search", cwd=project)
    assert values(study_of(project)) == values(study)
    assert (project / f".gesturepose/studies/{study.study_name}/index.html").read_text() == page

    # One of other settings stands beside it, and begins with its best.
    first = study_of(project)
    edit(project / "params.yaml", "accuracy_share: 0.5", "accuracy_share: 0.25")
    run("gesturepose", "search", "--trials", "1", "--workers", "1", cwd=project)
    storage = JournalStorage(JournalFileBackend(str(project / ".gesturepose/studies.journal")))
    (new,) = set(optuna.get_all_study_names(storage)) - {first.study_name}
    warm, *waiting = optuna.load_study(study_name=new, storage=storage).trials
    assert warm.params == first.best_trial.params and [trial.state.name for trial in waiting] == ["WAITING"] * 2
    assert values(optuna.load_study(study_name=first.study_name, storage=storage)) == values(first)


def test_a_worker_that_is_killed_is_replaced_and_its_trial_goes_on_from_its_checkpoint(project):
    edit(project / "params.yaml", "fixed: {}", "fixed: {train.epochs: 15}")
    edit(project / "params.yaml", "pruner: median", "pruner: none")
    search = start(project, "--trials", "3", "--workers", "2")

    victim = wait_for(lambda: trained(project, 3))
    os.kill(int(victim.user_attrs["gesturepose.pid"]), signal.SIGKILL)
    said, _ = search.communicate(timeout=LIMIT_S)
    assert search.returncode == 0, said
    study = study_of(project)
    states = {trial.number: trial.state.name for trial in study.trials}
    assert states.pop(victim.number) == "FAIL" and list(states.values()) == ["COMPLETE"] * 3
    (retried,) = [t for t in study.trials if t.user_attrs.get("gesturepose.attempt") == 2]
    assert retried.params == victim.params
    curve = retried.user_attrs["gesturepose.curve"]
    known = victim.user_attrs["gesturepose.curve"]
    assert len(curve) == 15 and {epoch: curve[epoch] for epoch in known} == known
    client, (parent,), trials = runs_of(project)
    assert parent.info.status == "FINISHED" and sorted(trials) == [0, 1, 2, 3]
    assert {n: r.info.status for n, r in trials.items()} == {n: "FINISHED" for n in states} | {victim.number: "KILLED"}
    history = client.get_metric_history(trials[retried.number].info.run_id, "value")
    assert [metric.step for metric in history] == list(range(1, 16))
    # It went on: the epochs that it had from its checkpoint were logged at once, without being trained.
    intervals_ms = np.diff([metric.timestamp for metric in history])
    assert np.median(intervals_ms[: len(known) - 1]) < np.median(intervals_ms[len(known) :]) / 3
    assert not list((project / ".gesturepose/search/checkpoints").iterdir())


def test_after_ctrl_c_and_after_the_search_itself_is_killed_the_same_command_goes_on(project):
    edit(project / "params.yaml", "fixed: {}", "fixed: {train.epochs: 15}")
    edit(project / "params.yaml", "pruner: median", "pruner: none")
    search = start(project, "--trials", "1", "--workers", "1")
    wait_for(lambda: trained(project, 2))
    search.send_signal(signal.SIGINT)
    said, _ = search.communicate(timeout=LIMIT_S)
    assert search.returncode == 130 and "goes on from here" in said
    _, (parent,), trials = runs_of(project)
    assert {parent.info.status, *(r.info.status for r in trials.values())} == {"KILLED"}
    assert [t.state.name for t in study_of(project).trials] == ["FAIL", "WAITING"]
    known = len(study_of(project).trials[0].user_attrs["gesturepose.curve"])

    search = start(project, "--trials", "1", "--workers", "1")
    victim = wait_for(lambda: trained(project, known + 2))
    search.kill()
    os.kill(int(victim.user_attrs["gesturepose.pid"]), signal.SIGKILL)
    search.communicate()
    assert "dead trials   1; --reap ends them" in run("gesturepose", "doctor", cwd=project).stdout

    assert "1 of 1 trials" in run("gesturepose", "search", "--trials", "1", "--workers", "1", cwd=project).stdout
    study = study_of(project)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL", "COMPLETE"]
    assert len({json.dumps(trial.params) for trial in study.trials}) == 1
    _, (parent,), trials = runs_of(project)
    assert [trials[number].info.status for number in range(3)] == ["KILLED", "KILLED", "FINISHED"]
    assert parent.info.status == "FINISHED"
    assert "dead trials   0\n" in run("gesturepose", "doctor", cwd=project).stdout


# Eight processes that have imported all they need, so that they come to the store at once.
EIGHT = """
import multiprocessing, os, sys
from gesturepose.cli import main
from gesturepose.search import runner

def search(number):
    said = os.open(f"said{number}", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv = ["gesturepose", "search", "--trials", "4", "--workers", "1"]
    main()

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    searches = [context.Process(target=search, args=[number]) for number in range(8)]
    for process in searches:
        process.start()
    for process in searches:
        process.join({LIMIT_S})
        process.kill()  # one that hangs
        process.join()
    print(*(process.exitcode for process in searches))
"""


def test_eight_searches_on_a_fresh_store_share_one_study(project):
    (project / ".gesturepose/mlflow.db").unlink()
    codes = [
        int(code)
        for code in run(sys.executable, "-c", EIGHT.replace("{LIMIT_S}", str(LIMIT_S)), cwd=project).stdout.split()
    ]
    said = [(project / f"said{number}").read_text() for number in range(8)]
    assert len(codes) == 8 and set(codes) <= {0, 1}, said  # 1: others still train the last ones
    assert 0 in codes and not any("Traceback" in text for text in said)
    study = study_of(project)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    run("gesturepose", "search", "--trials", "4", cwd=project)  # whoever comes last settles all
    _, (parent,), trials = runs_of(project)
    assert parent.info.status == "FINISHED" and {r.info.status for r in trials.values()} == {"FINISHED"}


def test_a_promoted_trial_is_what_the_pipeline_then_trains(project, monkeypatch):
    edit(project / "params.yaml", "    loss.heatmap:", "    labels.pose: {choices: [0.4, 0.7]}\n    loss.heatmap:")
    run("gesturepose", "search", "--trials", "2", "--workers", "1", cwd=project)
    study = study_of(project)
    monkeypatch.chdir(project)
    with pytest.raises(InputError, match="changes that are not committed"):
        promote(study.study_name, None, dirty=False, other=False)
    before = (project / "params.yaml").read_text()
    done = run("gesturepose", "promote", study.study_name, "--trial", "1", "--dirty", cwd=project)
    settings = study.trials[1].user_attrs["gesturepose.settings"]
    after = (project / "params.yaml").read_text()
    assert len(done.stdout.splitlines()) > 2 and before.count("#") == after.count("#")
    params = load_params(project / "params.yaml")
    assert params.labels.pose == settings["labels.pose"] and params.loss.depth == settings["loss.depth"]
    run("dvc", "repro", "train", cwd=project)
    client = MlflowClient(f"sqlite:///{project}/.gesturepose/mlflow.db")
    experiment = client.get_experiment_by_name("gesturepose")
    (train,) = client.search_runs([experiment.experiment_id], "tags.`gesturepose.stage` = 'train'")
    curve = {str(m.step): m.value for m in client.get_metric_history(train.info.run_id, "validation/value")}
    assert curve == study.trials[1].user_attrs["gesturepose.curve"]  # bit for bit

    for name, number, words in (("nothing", None, "no study 'nothing'"), (study.study_name, 9, "no trial 9")):
        with pytest.raises(InputError, match=words):
            promote(name, number, dirty=True, other=False)
    edit(project / "params.yaml", "segments: 8", "segments: 7")
    with pytest.raises(InputError, match="is of other settings than this project"):
        promote(study.study_name, None, dirty=True, other=False)
    promote(study.study_name, None, dirty=True, other=True)


def test_a_search_in_which_nothing_can_be_trained_says_why_and_stops(project, monkeypatch):
    edit(project / "params.yaml", "fixed: {}", "fixed: {train.clips_per_batch: 1, labels.pose: 0.4}")
    done = run("gesturepose", "search", "--trials", "20", "--workers", "1", cwd=project, check=False)
    assert done.returncode == 2 and "3 trials in a row failed" in done.stderr and "clips_per_batch is 1" in done.stderr
    study = study_of(project)
    assert [trial.state.name for trial in study.trials[:3]] == ["FAIL"] * 3
    # More may have failed while the search looked; one that had begun was told to end, and waits.
    assert {trial.state.name for trial in study.trials[3:]} <= {"FAIL", "WAITING"} and len(study.trials) < 20
    monkeypatch.chdir(project)
    with pytest.raises(InputError, match="has no complete trial"):
        promote(study.study_name, None, dirty=True, other=False)
    _, (parent,), trials = runs_of(project)
    assert parent.info.status == "FAILED" and {trials[number].info.status for number in range(3)} == {"FAILED"}
    assert "RUNNING" not in {trial.info.status for trial in trials.values()}


def test_a_front_prunes_by_the_declared_value_and_counts_labels(project):
    # A rate that leaves the network as it is, and one that ruins it: all joints but the root are wrong.
    rates = {"choices": [1e-9, 0.1]}
    changes = {
        "search.objective": "front",
        "search.space": {"train.learning_rate": rates, "labels.gesture": {"choices": [0.5, 1.0]}},
        "search.fixed": {"train.epochs": 6, "loss.depth": 100.0},
        "search.accuracy_share": 0.0,
        "search.random_trials": 1,
        "search.unpruned_epochs": 1,
    }
    set_values(changes, project / "params.yaml")
    run("gesturepose", "search", "--trials", "1", "--workers", "1", cwd=project)
    for rate in rates["choices"]:
        study_of(project).enqueue_trial({"train.learning_rate": rate, "labels.gesture": 1.0})
    run("gesturepose", "search", "--trials", "3", "--workers", "1", cwd=project)
    study = study_of(project)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MAXIMIZE", "MINIMIZE"]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert 1 <= len(study.trials[2].user_attrs["gesturepose.curve"]) < 6
    for trial in study.trials[:2]:
        assert trial.values[2] == trial.user_attrs["gesturepose.label_cost"]
        assert (trial.values[2] < 1) == (trial.params["labels.gesture"] == 0.5)
    _, _, trials = runs_of(project)
    assert [trials[n].data.tags["gesturepose.trial.state"] for n in range(3)] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert {trial.info.status for trial in trials.values()} == {"FINISHED"}
    assert not list((project / ".gesturepose/search/checkpoints").iterdir())
    found = json.loads((project / f".gesturepose/studies/{study.study_name}/metrics.json").read_text())
    assert [t["trial"] for t in found["best"]] == sorted(t.number for t in study.best_trials)
    assert found["epochs"]["of"] == 18 and found["epochs"]["trained"] < 18 and "replay" not in found
    assert Path(project / f".gesturepose/studies/{study.study_name}/figures/front.png").stat().st_size > 5000


@pytest.fixture
def database(tmp_path_factory):
    """The URL of an empty PostgreSQL, where the system has one."""
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL is not installed")
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path must be short
    drop = []
    if os.geteuid() == 0:  # which PostgreSQL refuses
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        drop = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    server = [*drop, "pg_ctl", "-D", data, "-l", str(folder / "log"), "-w"]
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    for command in ([*drop, "initdb", "-D", data, "-A", "trust", "-U", "someone"], [*server, "-o", options, "start"]):
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    yield f"postgresql://someone:secret@127.0.0.1:{port}/postgres"
    subprocess.run([*server, "-m", "immediate", "stop"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(folder)


def test_two_searches_share_a_database(project, database, monkeypatch):
    """As two machines would."""
    monkeypatch.setenv("OPTUNA_STORAGE", database)
    # Long enough that neither is through with all before the other has begun.
    edit(project / "params.yaml", "fixed: {}", "fixed: {train.epochs: 20}")
    edit(project / "params.yaml", "pruner: median", "pruner: none")
    searches = [start(project, "--trials", "4", "--workers", "1", OPTUNA_STORAGE=database) for _ in range(2)]
    ends = [(search.communicate(timeout=LIMIT_S)[0], search.returncode) for search in searches]
    assert all(code in (0, 1) for _, code in ends) and any(code == 0 for _, code in ends), ends
    assert all("secret" not in said and ":***@" in said for said, _ in ends)
    (name,) = optuna.get_all_study_names(database)
    study = optuna.load_study(study_name=name, storage=database)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    assert len({trial.user_attrs["gesturepose.pid"] for trial in study.trials}) == 2
    assert not (project / ".gesturepose/studies.journal").exists()
