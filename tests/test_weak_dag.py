"""The nested pipeline of the curves: run by the runner, not by the root pipeline; a new ratio runs new cells alone."""

import json
import shutil

import pandas as pd
import pytest
from dvc.repo import Repo
from mlflow import MlflowClient

from gesturepose.cells import all_cells
from gesturepose.params import load_params
from gesturepose.provenance import file_digest
from project import commit, edit, run

NESTED = "pipelines/weak/dvc.yaml"


@pytest.fixture(scope="module")
def reproduced(prepared_project, tmp_path_factory):
    folder = shutil.copytree(prepared_project, tmp_path_factory.mktemp("weak") / "project", symlinks=True)
    (folder / ".gesturepose/mlflow.db").unlink()
    edit(folder / "params.yaml", "ratios: [0.4, 0.7]", "ratios: [0.4]")
    commit(folder, "one ratio")
    return folder, run("gesturepose", "matrix", "weak", "--jobs", "2", cwd=folder)


def test_the_matrix_runs_and_scores_every_cell(reproduced):
    folder, _ = reproduced
    params = load_params(folder / "params.yaml")
    cells = all_cells(params.weak)
    table = pd.read_csv(folder / "reports/weak/cells.csv")
    assert len(table) == len(cells) == 4
    for row in table.itertuples():
        name = f"{row.direction}-{row.method}-{row.ratio}-{row.seed}"
        assert file_digest(folder / f"data/weak/cells/{name}.safetensors") == row.weights
    assert table["weights"].nunique() == 4
    metrics = json.loads((folder / "reports/weak/metrics.json").read_text())
    per_video = pd.read_csv(folder / "reports/weak/per_video.csv")
    assert len(per_video) == 4 * metrics["data"]["videos"] > 0 and metrics["data"]["split"] == "validation"
    assert set(metrics["pose"]["weak"]["gain"]) == {"at_40", "area"} and "mcnemar" in str(metrics["gesture"])
    weak_pose = per_video[(per_video["direction"] == "pose") & (per_video["method"] == "weak")]
    curves = pd.read_csv(folder / "reports/weak/curves.csv")
    (pck_30,) = curves[(curves["method"] == "weak") & (curves["metric"] == "pck_30")]["value"]
    assert pck_30 == pytest.approx(weak_pose["hits_30"].sum() / weak_pose["joints"].sum(), abs=1e-6)
    page = (folder / "reports/weak/index.html").read_text()
    for said in ("Synthetic data", "Not the test split", "Preliminary", metrics["data"]["fingerprint"], "dvc status"):
        assert said in page
    assert run("dvc", "status", "-q", NESTED, cwd=folder, check=False).returncode == 0


def test_each_cell_has_a_run_that_names_its_weights(reproduced):
    folder, _ = reproduced
    client = MlflowClient(f"sqlite:///{folder}/.gesturepose/mlflow.db")
    experiment = client.get_experiment_by_name("gesturepose")
    runs = client.search_runs([experiment.experiment_id], max_results=200)
    assert {found.info.status for found in runs} == {"FINISHED"}
    assert len([found for found in runs if "mlflow.parentRunId" not in found.data.tags]) == 1, "one parent"
    by_weights = {found.data.tags.get("gesturepose.weights"): found for found in runs}
    for row in pd.read_csv(folder / "reports/weak/cells.csv").itertuples():
        cell = by_weights[row.weights].data
        assert (cell.params["cell.direction"], cell.params["cell.method"]) == (row.direction, row.method)
        assert cell.params["cell.ratio"] == str(row.ratio) and "train/loss" in cell.metrics
    assert not list((folder / ".gesturepose/checkpoints").glob("*"))


def test_the_root_pipeline_starts_none_of_it(reproduced, monkeypatch):
    folder, _ = reproduced
    monkeypatch.chdir(folder)
    with Repo() as repo:
        root = {stage.addressing for stage in repo.stage.collect("dvc.yaml", with_deps=True)}
        nested = {stage.addressing for stage in repo.stage.collect(NESTED, with_deps=True)}
    assert {"prepare", "train", "evaluate"} <= root and not any("weak" in stage for stage in root), root
    assert "prepare" in nested and "train" not in nested and any("pose_weak@0.4-0" in stage for stage in nested)


def test_a_second_run_runs_nothing_and_a_new_ratio_new_cells_alone(reproduced):
    folder, _ = reproduced
    assert "0 to run" in run("gesturepose", "matrix", "weak", cwd=folder).stdout
    params = (folder / "params.yaml").read_text()
    edit(folder / "params.yaml", "ratios: [0.4]", "ratios: [0.4, 0.7]")
    run("dvc", "repro", f"{NESTED}:labels", cwd=folder)
    status = json.loads(run("dvc", "status", "--json", NESTED, cwd=folder).stdout)
    changed = {stage.rpartition(":")[2] for stage in status}
    cells = {stage for stage in changed if "@" in stage}
    assert cells and all("0.7" in stage for stage in cells), cells
    assert changed - cells == {"evaluate", "collect", "page"}
    (folder / "params.yaml").write_text(params)


def test_files_of_a_ratio_that_was_taken_out_are_refused(reproduced):
    folder, _ = reproduced
    stray = folder / "data/weak/cells/pose-weak-0.9-0.safetensors"
    stray.write_bytes(b"")
    done = run("python", "pipelines/weak/evaluate.py", cwd=folder, check=False)
    stray.unlink()
    assert done.returncode == 2 and "files of no cell of params.yaml: pose-weak-0.9-0" in done.stderr
    assert "Traceback" not in done.stderr
