"""The nested pipeline of the tables: its deps are its scripts' imports, it runs whole, and a row more runs alone."""

import json
import runpy
import shutil
import sys

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from project import PROJECT, edit, run, stages_run

NESTED = PROJECT / "pipelines/ablation"


def test_the_root_pipeline_needs_none_of_it():
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    assert stages["train"]["deps"]
    assert not [dep for stage in stages.values() for dep in stage["deps"] if "ablation" in dep]


def test_settings_that_the_tables_vary_are_no_params_of_their_cells(params):
    """Whoever turns the network's iterations does not train all rows again; what a row reads is there."""
    stage = yaml.safe_load((NESTED / "dvc.yaml").read_text())["stages"]["cell"]
    listed = {name.removeprefix("network.") for name in stage["params"] if name.startswith("network.")}
    varied = {"iterations", "streams", "multi_scale", "share_iterations", "detach_slow_fast"}
    assert listed == set(type(params.network).model_fields) - varied - {"weights"}  # the trunk's file stands for those


def test_the_nested_pipeline_runs(prepared_project, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(prepared_project, tmp_path / "project", symlinks=True)
    edit(folder / "params.yaml", "rows: [multi_scale, complete]", "rows: [complete]")
    done = run("dvc", "repro", "pipelines/ablation/dvc.yaml", cwd=folder)
    own = sorted(name.split(":")[1] for name in stages_run(done) if "ablation" in name)
    assert own == ["cell", "collect", "evaluate", "page", "reference"]
    tables = pd.read_csv(folder / "reports/ablation/tables.csv")
    assert set(tables["row"]) == {"complete", "hp_ac"}
    assert tables["accuracy_mean"].between(0, 1).all() and (tables["gmac_a_frame"] > 0).all()
    assert (folder / "reports/ablation/index.html").stat().st_size > 10_000
    assert run("dvc", "status", "-q", "pipelines/ablation/dvc.yaml", cwd=folder, check=False).returncode == 0
    client = MlflowClient(f"sqlite:///{folder}/.gesturepose/mlflow.db")
    experiment = client.get_experiment_by_name("gesturepose")
    digests = pd.read_csv(folder / "reports/ablation/cells.csv")["weights"]
    for digest in digests:
        query = f"tags.`gesturepose.weights` = '{digest}'"
        assert len(client.search_runs([experiment.experiment_id], query)) == 1
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["cell.py", "slow", "0"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path("pipelines/ablation/cell.py", run_name="__main__")
    assert "error: no row 'slow'; params.yaml has complete\n  See ablation.rows." in capsys.readouterr().err
    # A row more is trained alone; what the tables vary anyway trains none again.
    edit(folder / "params.yaml", "rows: [complete]", "rows: [complete, slow]")
    edit(folder / "params.yaml", "iterations: 2", "iterations: 3")
    status = json.loads(run("dvc", "status", "--json", "pipelines/ablation/dvc.yaml", cwd=folder).stdout)
    assert {stage.rpartition(":")[2] for stage in status} == {"cell@slow-0", "evaluate", "page"}
