"""Provenance against real git repositories and real DVC pipelines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from pydantic import BaseModel

from gesturepose.errors import InputError
from gesturepose.processes import ProcessIdentity, enclosing_dvc_process
from gesturepose.provenance import (
    UNKNOWN,
    content_digest,
    current_address,
    git_state,
    params_fingerprint,
    project_root,
    read_pipeline,
    stage_fingerprint,
)

SOURCE = Path(__file__).parents[1] / "src"
DVC_YAML = """\
stages:
  prepare:
    cmd: cp ${data.root} data/packed.txt
    deps: ["${data.root}", src/packing.py]
    params: [prepare.size]
    outs: [data/packed.txt]
  train:
    cmd: cp data/packed.txt reports/train.txt
    deps: [data/packed.txt, src]
    params: [train]
    metrics:
      - reports/train.txt: {cache: false}
"""
NESTED_YAML = """\
vars: [../../params.yaml]
stages:
  train:
    matrix: {seed: "${train.seeds}"}
    wdir: ../..
    cmd: python -m pipelines.cell data/cell${item.seed}.txt
    deps: [data/packed.txt, pipelines/cell.py]
    params: [train.rate]
    outs: ["data/cell${item.seed}.txt"]
"""
FILES = {
    "dvc.yaml": DVC_YAML,
    "pipelines/curves/dvc.yaml": NESTED_YAML,
    "pipelines/cell.py": (
        "import sys; from pathlib import Path; from gesturepose.provenance import current_address, project_root\n"
        "Path(sys.argv[1]).write_text(current_address('train', project_root()))\n"
    ),
    "params.yaml": "data: {root: data/raw.txt}\nprepare: {size: 3, workers: 2}\ntrain: {rate: 0.1, seeds: [5, 7]}\n",
    "src/packing.py": "SIZE = 3\n",
    "src/übung one.py": "print('hello')\n",
    "data/raw.txt": "raw\n",
    "reports/README.md": "What the stages report.\n",
    "README.md": "A project.\n",
}


def shell(root: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
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


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "a project"
    shutil.copytree(template, root, symlinks=True)
    for name in ("DVC_STAGE", "DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(root)
    return root


def test_clean_tree_names_its_commit(project: Path) -> None:
    state = git_state(project)
    assert state.commit == shell(project, "git", "rev-parse", "HEAD").strip()
    assert (state.branch, state.dirty, state.patch) == ("trunk", False, "")


def test_what_the_pipeline_writes_is_not_dirt(project: Path) -> None:
    shell(project, "dvc", "repro", "-q")
    shell(project, "git", "add", "-f", "dvc.lock", "reports")
    shell(project, "git", "commit", "-q", "-m", "results")
    (project / "data/raw.txt").write_text("raw\n")
    for path in ("dvc.lock", "reports/train.txt"):
        (project / path).write_text("something else\n" if path.startswith("reports") else "schema: '2.0'\n")
    assert not git_state(project).dirty


@pytest.mark.parametrize("path", ["README.md", "src/packing.py", "params.yaml", "data/raw.txt"])
def test_a_changed_tracked_file_is_dirt(project: Path, path: str) -> None:
    with (project / path).open("a") as stream:
        stream.write("# more\n")
    assert git_state(project).dirty


@pytest.mark.parametrize(("path", "dirty"), [("src/new.py", True), ("pipelines/new.py", True), ("notes.txt", False)])
def test_an_untracked_file_is_dirt_where_code_lives(project: Path, path: str, dirty: bool) -> None:
    (project / path).write_text("x = 1\n")
    state = git_state(project)
    assert state.dirty is dirty
    assert (path in state.patch) is dirty


def test_the_patch_restores_the_tree(project: Path) -> None:
    (project / "src/übung one.py").write_text("print('good-bye')\n")
    (project / "src/packing.py").unlink()
    (project / "src/new.py").write_text("x = 1\n")
    shell(project, "git", "add", "src/packing.py")  # staged or not makes no difference
    patch = git_state(project).patch
    shell(project, "git", "reset", "-q", "--hard")
    (project / "the.patch").write_text(patch)
    shell(project, "git", "apply", "the.patch")
    assert (project / "src/übung one.py").read_text() == "print('good-bye')\n"
    assert not (project / "src/packing.py").exists()


def test_a_long_patch_is_cut_and_says_so(project: Path) -> None:
    (project / "README.md").write_text("line\n" * 400_000)
    patch = git_state(project).patch
    assert len(patch) < 1_100_000
    assert "# cut: " in patch[:100]


def test_an_experiment_counts_from_its_baseline(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    baseline = git_state(project).commit
    (project / "params.yaml").write_text(FILES["params.yaml"].replace("0.1", "0.3"))
    shell(project, "git", "commit", "-q", "-a", "-m", "made by an experiment")
    assert not git_state(project).dirty
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", baseline)
    state = git_state(project)
    assert (state.commit, state.dirty) == (baseline, True)
    assert "rate: 0.3" in state.patch


def test_a_tarball_says_unknown(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stage_fingerprint("train", project)
    shutil.rmtree(project / ".git")
    state = git_state(project)
    assert (state.commit, state.branch, state.dirty) == (UNKNOWN, UNKNOWN, False)
    assert stage_fingerprint("train", project) == before  # .dvc is enough for fingerprints
    shutil.rmtree(project / ".dvc")
    assert stage_fingerprint("train", project) == UNKNOWN
    with pytest.raises(InputError, match="not inside a project"):
        project_root(project)


def test_a_folder_that_another_repository_does_not_track_has_no_commit(project: Path) -> None:
    inner = project / "unpacked"
    inner.mkdir()
    (inner / "params.yaml").write_text("train: {}\n")
    assert git_state(inner).commit == UNKNOWN


def test_templates_matrices_and_nested_files_are_resolved(project: Path) -> None:
    pipeline = read_pipeline(project)
    addresses = [f"pipelines/curves/dvc.yaml:train@{seed}" for seed in (5, 7)]
    assert {stage.address for stage in pipeline.stages} == {"prepare", "train", *addresses}
    cell = pipeline.find(addresses[1])
    assert cell is not None
    assert cell.command == "python -m pipelines.cell data/cell7.txt"
    assert (cell.code, cell.data, cell.outs) == (("pipelines/cell.py",), ("data/packed.txt",), ("data/cell7.txt",))
    prepare = pipeline.find("prepare")
    assert prepare is not None and prepare.data == ("data/raw.txt",)
    assert list(prepare.params.values()) == [3]


def test_a_stage_in_a_nested_file_knows_its_address(project: Path) -> None:
    shell(project, "dvc", "repro", "-q")
    shell(project / "pipelines", "dvc", "repro", "-q", "curves/dvc.yaml:train@5")
    assert (project / "data/cell5.txt").read_text() == "pipelines/curves/dvc.yaml:train@5"


def test_a_script_run_by_hand_is_a_stage_of_the_dvc_yaml_beside_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    for script, address in (
        ("pipelines/curves/evaluate.py", "pipelines/curves/dvc.yaml:evaluate"),
        ("pipelines/evaluate.py", "evaluate"),
        ("evaluate.py", "evaluate"),
    ):
        monkeypatch.setattr(sys, "argv", [str(project / script)])
        assert current_address("evaluate", project) == address


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("dvc.yaml", "cp data/packed.txt", "cp -f data/packed.txt"),
        ("params.yaml", "rate: 0.1", "rate: 0.2"),
        ("src/packing.py", "3", "4"),
        ("data/packed.txt", "", "more"),
    ],
)
def test_the_fingerprint_follows_what_changes_the_result(project: Path, path: str, old: str, new: str) -> None:
    shell(project, "dvc", "repro", "-q")
    before = stage_fingerprint("train", project)
    text = (project / path).read_text()
    assert old in text
    (project / path).unlink()  # DVC may have linked it to its cache
    (project / path).write_text(text.replace(old, new, 1))
    assert stage_fingerprint("train", project) != before
    (project / path).write_text(text)
    assert stage_fingerprint("train", project) == before


def test_the_fingerprint_ignores_what_does_not(project: Path) -> None:
    before = stage_fingerprint("train", project)
    (project / "dvc.yaml").write_text("# a comment\n" + DVC_YAML)
    (project / "params.yaml").write_text(FILES["params.yaml"].replace("workers: 2", "workers: 5"))
    (project / "src/__pycache__").mkdir()
    (project / "src/__pycache__/packing.cpython-311.pyc").write_bytes(b"bytecode")
    (project / "README.md").write_text("Another text.\n")
    assert stage_fingerprint("train", project) == before


def test_code_and_data_fingerprints_are_apart(project: Path) -> None:
    before = read_pipeline(project)
    code, data = before.code_fingerprint("prepare"), before.data_fingerprint("prepare")
    (project / "src/packing.py").write_text("SIZE = 5\n")
    after = read_pipeline(project)
    assert after.code_fingerprint("prepare") != code
    assert after.data_fingerprint("prepare") == data
    assert after.fingerprint("prepare") != before.fingerprint("none") == UNKNOWN


def test_a_pipeline_that_dvc_refuses_is_an_input_error(project: Path) -> None:
    (project / "dvc.yaml").write_text("stages:\n  train: {cmd: [}\n")
    with pytest.raises(InputError, match=r"dvc\.yaml"):
        read_pipeline(project)


def test_a_folder_is_its_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/a.txt").write_text("one")
    before = content_digest(folder)
    (tmp_path / "link").symlink_to(folder)
    assert content_digest(tmp_path / "link") == before
    (folder / "inner/a.txt").rename(folder / "inner/b.txt")
    renamed = content_digest(folder)
    (folder / "inner/b.txt").write_text("two")
    assert len({before, renamed, content_digest(folder)}) == 3
    (folder / "loop").symlink_to(folder)
    content_digest(folder)  # ends


def test_a_declared_fingerprint_stands_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"fingerprint": "abc"}')
    (tmp_path / "frames.npy").write_bytes(b"1")
    assert content_digest(tmp_path) == content_digest(tmp_path, "dvc's") == "abc"
    (tmp_path / "index.json").write_text('{"fingerprint": 3}')
    assert content_digest(tmp_path, "dvc's") == "dvc's"
    assert content_digest(tmp_path / "nothing") == "missing"


def test_params_fingerprint_reads_its_sections_only() -> None:
    class Settings(BaseModel):
        train: dict[str, float]
        evaluate: dict[str, float]

    first, other = Settings(train={"a": 1, "b": 2}, evaluate={"c": 3}), Settings(train={"b": 2, "a": 1}, evaluate={})
    assert params_fingerprint(first, ["train"]) == params_fingerprint(other, ["train"])
    assert params_fingerprint(first, ["train", "evaluate"]) != params_fingerprint(other, ["train", "evaluate"])


def test_outside_dvc_a_stage_is_called_by_its_name(project: Path) -> None:
    assert enclosing_dvc_process() is None
    assert current_address("train", project) == "train"


def test_a_process_is_dead_only_where_this_host_can_know() -> None:
    own = ProcessIdentity.of(psutil.Process())
    assert ProcessIdentity.from_tags(own.tags()).same_process(own)  # type: ignore[union-attr]
    assert not own.is_dead()
    reused = ProcessIdentity(own.host, own.boot, own.pid, own.started - 60)
    assert reused.is_dead()
    assert not ProcessIdentity("another host", own.boot, own.pid, own.started - 60).is_dead()
    assert ProcessIdentity(own.host, "an earlier boot", own.pid, psutil.boot_time() - 60).is_dead()
    assert not ProcessIdentity(own.host, "another machine of that name", own.pid, psutil.boot_time() + 60).is_dead()
    assert ProcessIdentity.from_tags({"mlflow.user": "someone"}) is None
