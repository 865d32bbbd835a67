"""A small synthetic dataset, generated and prepared once for all tests that need pictures."""

import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from gesturepose.data.fpha import open_root
from gesturepose.data.prepare import prepare
from gesturepose.data.prepared import PreparedData
from gesturepose.params import Params, PrepareSettings, apply_profile, load_params
from gesturepose.synthetic.writer import write_root
from project import PROJECT, checkout, commit, run

LONG = ("test_search_runs", "test_dag", "test_search_dag", "test_weak_dag", "test_ablation_dag", "test_matrix")


def pytest_collection_modifyitems(items):
    """Files that run whole pipelines come first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(autouse=True)
def _plain_torch():
    """Each test leaves PyTorch's global switches as it found them."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory) -> Path:
    """A root of the generator's `test` size: 4 classes, 2 subjects."""
    out = tmp_path_factory.mktemp("synthetic") / "root"
    write_root(out, size="test", image_width=160, seed=0, workers=2)
    return out


@pytest.fixture(scope="session")
def prepared(synthetic_root, tmp_path_factory) -> PreparedData:
    """The same, as crops of 32 px."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    settings = PrepareSettings(image_size=32, crop="clip", box_margin=1.3, max_unreadable=0.0)
    prepare(open_root(synthetic_root, validation=0.25), out, settings, workers=2)
    return PreparedData.open(out)


@pytest.fixture(scope="session")
def prepared_project(tmp_path_factory) -> Path:
    """The project's files as a repository of its own, with the `test` profile and its data prepared: to be copied.

    One for all processes that run tests.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "prepared_project"
    with FileLock(shared / "prepared_project.lock"):
        if not folder.exists():
            made = checkout(tmp_path_factory.mktemp("project") / "made")
            run("dvc", "repro", "-q", "prepare", cwd=made)
            commit(made, "prepared")
            made.rename(folder)
    return folder


@pytest.fixture
def params(tmp_path) -> Params:
    """The `test` profile's settings."""
    path = tmp_path / "params.yaml"
    path.write_text((PROJECT / "params.yaml").read_text())
    apply_profile("test", path)
    return load_params(path)
