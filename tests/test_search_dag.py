"""The nested pipeline of a study: the same trials each time, nothing of it started by the root pipeline."""

import json
import shutil

import pytest
from dvc.repo import Repo

from gesturepose.params import set_values
from gesturepose.provenance import file_digest
from project import commit, run

NESTED = "pipelines/search/dvc.yaml"
FILES = ["trials.csv", "metrics.json", "index.html", "plots.html", "figures/history.png", "figures/front.png"]


@pytest.fixture(scope="module")
def reproduced(prepared_project, tmp_path_factory):
    folder = shutil.copytree(prepared_project, tmp_path_factory.mktemp("search") / "project", symlinks=True)
    set_values({"search.fixed": {}, "search.trials": 3, "search.random_trials": 2}, folder / "params.yaml")
    commit(folder, "short")
    run("dvc", "repro", NESTED, cwd=folder)
    return folder


def test_a_study_is_repeated_to_the_byte(reproduced):
    folder = reproduced
    before = {name: file_digest(folder / "reports/search" / name) for name in FILES}
    found = json.loads((folder / "reports/search/metrics.json").read_text())
    assert found["study"]["trials"] == 3 and set(found["replay"]) == {"median", "hyperband"}
    assert run("dvc", "status", "-q", NESTED, cwd=folder, check=False).returncode == 0
    # As on another machine: no study, no trunks, no checkpoints. A study of several workers beside it changes nothing.
    shutil.rmtree(folder / ".gesturepose/search")
    (folder / ".gesturepose/studies.journal").unlink()
    run("gesturepose", "search", "--trials", "1", cwd=folder)
    run("dvc", "repro", "-f", "-s", NESTED, cwd=folder)
    assert {name: file_digest(folder / "reports/search" / name) for name in FILES} == before


def test_the_root_pipeline_starts_none_of_it(reproduced, monkeypatch):
    monkeypatch.chdir(reproduced)
    with Repo() as repo:
        root = {stage.addressing for stage in repo.stage.collect("dvc.yaml", with_deps=True)}
        nested = {stage.addressing for stage in repo.stage.collect(NESTED, with_deps=True)}
    assert {"prepare", "train", "evaluate"} <= root and not any("search" in stage for stage in root), root
    assert {"prepare", f"{NESTED}:search"} <= nested and "train" not in nested
