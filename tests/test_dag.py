"""dvc.yaml: its dependencies are what the scripts import, and the DAG runs what it has to and nothing else."""

import ast
import json
import shutil
import sys
from pathlib import Path

import grimp
import pytest
import yaml
from mlflow import MlflowClient

from gesturepose.provenance import read_pipeline
from project import PROJECT, checkout, edit, run, stages_run

STAGES = ["generate", "prepare", "backbone", "finetune", "train", "evaluate", "report"]
# They watch a stage and have no part in its result, or only carry values that DVC compares itself.
EXEMPT = (
    "gesturepose.tracking", "gesturepose.provenance", "gesturepose.processes", "gesturepose.params",
    "gesturepose.errors", "gesturepose.signals", "gesturepose.places",
)  # fmt: skip


def imported_files(script, graph):
    """The project's files that `script` imports, directly or not, without the exempt ones."""
    direct = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gesturepose"):
            for name in node.names:
                module = f"{node.module}.{name.name}"
                direct.add(module if module in graph.modules else node.module)
    modules = {module for module in direct if not module.startswith(EXEMPT)}
    for module in tuple(modules):
        modules |= graph.find_upstream_modules(module)
    modules = {module for module in modules if not module.startswith(EXEMPT)}
    files = set()
    for module in modules:
        path = PROJECT / "src" / Path(*module.split("."))
        files.add(path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py")
    return {file for file in files if file.read_text().strip()}


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("gesturepose", cache_dir=None)


def stages_with_files():
    """Each stage of the root pipeline and the nested ones, one of its cells where it is a matrix."""
    files = ["dvc.yaml", *sorted(path.relative_to(PROJECT).as_posix() for path in PROJECT.glob("pipelines/*/dvc.yaml"))]
    return [(file, name) for file in files for name in yaml.safe_load((PROJECT / file).read_text())["stages"]]


@pytest.mark.parametrize(("file", "name"), stages_with_files())
def test_code_dependencies_are_the_imports(graph, file, name):
    stage = yaml.safe_load((PROJECT / file).read_text())["stages"][name]
    code = {PROJECT / path for path in stage["deps"] if path.startswith(("src/", "pipelines/"))}
    script = next(PROJECT / word for word in stage["cmd"].split() if word.endswith(".py"))
    used = imported_files(script, graph) | {script}
    covered = {found for found in used if any(found == path or path in found.parents for path in code)}
    assert used - covered - {PROJECT / "src/gesturepose/__init__.py"} == set(), "imported, and no dependency"
    templates = PROJECT / "src/gesturepose" / ("templates" if file == "dvc.yaml" else "result_templates")
    idle = {path for path in code - {templates} if not any(found == path or path in found.parents for found in used)}
    assert idle == set(), "a dependency, and not imported"


def test_every_script_of_a_pipeline_is_a_stage():
    commands = [
        yaml.safe_load((PROJECT / file).read_text())["stages"][name]["cmd"] for file, name in stages_with_files()
    ]
    scripts = {PROJECT / word for command in commands for word in command.split() if word.endswith(".py")}
    assert scripts == {path for path in PROJECT.glob("pipelines/**/*.py") if path.name != "__init__.py"}


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    folder = checkout(tmp_path_factory.mktemp("project"))
    return folder, run("dvc", "repro", "dvc.yaml", cwd=folder)


def test_the_whole_pipeline_runs(reproduced):
    folder, done = reproduced
    assert sorted(stages_run(done)) == sorted(STAGES)
    metrics = json.loads((folder / "reports/evaluate/metrics.json").read_text())
    assert metrics["data"]["name"] == "synthetic"
    assert 0.0 <= metrics["pose"]["root_aligned"]["joints21"]["pck_30"] <= 1.0
    assert set(metrics["pose"]["baselines"]) == {"mean_pose", "nearest_frame"}
    assert (folder / "reports/index.html").stat().st_size > 10_000
    assert run("dvc", "status", "-q", "dvc.yaml", cwd=folder, check=False).returncode == 0


def test_one_parent_and_a_finished_child_for_each_stage(reproduced):
    folder, _ = reproduced
    client = MlflowClient(f"sqlite:///{folder}/.gesturepose/mlflow.db")
    experiment = client.get_experiment_by_name("gesturepose")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    parents = [found for found in runs if "mlflow.parentRunId" not in found.data.tags]
    children = [found for found in runs if "mlflow.parentRunId" in found.data.tags]
    assert len(parents) == 1
    assert sorted(child.data.tags["gesturepose.stage"] for child in children) == sorted(STAGES)
    assert {found.info.status for found in runs} == {"FINISHED"}
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parents[0].info.run_id}
    commit = run("git", "rev-parse", "HEAD", cwd=folder).stdout.strip()
    assert {child.data.tags["gesturepose.git.commit"] for child in children} == {commit}
    assert {child.data.tags["gesturepose.git.dirty"] for child in children} == {"false"}
    by_stage = {child.data.tags["gesturepose.stage"]: child for child in children}
    assert "validation/accuracy" in by_stage["train"].data.metrics
    assert "gesture.accuracy" in by_stage["evaluate"].data.metrics
    assert by_stage["train"].data.params["train.epochs"] == "2"
    assert [file.path for file in client.list_artifacts(by_stage["report"].info.run_id, "figures")] != []


def test_second_repro_runs_nothing_and_a_plot_draws_again_alone(reproduced):
    folder, _ = reproduced
    assert stages_run(run("dvc", "repro", "dvc.yaml", cwd=folder)) == []

    def planned():
        return stages_run(run("dvc", "repro", "--dry", "dvc.yaml", cwd=folder))

    params = (folder / "params.yaml").read_text()
    edit(folder / "params.yaml", "workers: 2", "workers: 1")
    assert planned() == ["report"]  # which shows the settings; no result depends on it
    (folder / "params.yaml").write_text(params)
    plots = (folder / "src/gesturepose/plots.py").read_text()
    (folder / "src/gesturepose/plots.py").write_text(plots + "\n# another style\n")
    assert planned() == ["report"]
    (folder / "src/gesturepose/plots.py").write_text(plots)
    assert planned() == []


def test_a_clean_repro_gives_the_same_bits(reproduced, tmp_path):
    folder, _ = reproduced
    again = checkout(tmp_path / "again")
    run("dvc", "repro", "dvc.yaml", cwd=again)
    for name in ("reports/evaluate/metrics.json", "reports/train/history.csv", "reports/index.html"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    # DVC runs stages that do not depend on each other, and so lists them, in any order.
    one, other = (yaml.safe_load((where / "dvc.lock").read_text()) for where in (again, folder))
    assert one == other


def test_real_data_leaves_the_generator_out(reproduced):
    """data.root names a dataset: prepare depends on it, and no stage writes it."""
    folder, _ = reproduced
    shutil.copytree(folder / "data/synthetic", folder / "data/recorded", symlinks=True)
    params = (folder / "params.yaml").read_text()
    edit(folder / "params.yaml", "root: data/synthetic", "root: data/recorded")
    edit(folder / "params.yaml", "sets: [synthetic]", "sets: []")
    listed = run("dvc", "stage", "list", "dvc.yaml", cwd=folder).stdout
    assert "generate" not in listed and "prepare" in listed
    assert "prepare" in stages_run(run("dvc", "repro", "--dry", "dvc.yaml", cwd=folder))
    pipeline = read_pipeline(folder)
    assert "data/recorded" in pipeline.find("prepare").data
    assert not any("data/recorded" in stage.outs for stage in pipeline.stages)
    (folder / "params.yaml").write_text(params)


def test_a_users_mistake_has_a_message_and_no_traceback(reproduced):
    folder, _ = reproduced
    params = (folder / "params.yaml").read_text()
    edit(folder / "params.yaml", "  channels: 2", "  chanels: 2")
    done = run(sys.executable, "pipelines/train.py", cwd=folder, check=False)
    (folder / "params.yaml").write_text(params)
    assert done.returncode == 2
    assert "did you mean network.channels?" in done.stderr and "Traceback" not in done.stderr


def test_a_changed_loss_weight_trains_again_and_prepares_nothing(reproduced):
    folder, _ = reproduced
    edit(folder / "params.yaml", "gesture: 0.001", "gesture: 0.002")
    assert stages_run(run("dvc", "repro", "dvc.yaml", cwd=folder)) == ["train", "evaluate", "report"]


def test_two_processes_train_as_one_and_log_once(reproduced):
    """`runtime.launcher` with torchrun: the stages run again, in one MLflow run each."""
    folder, _ = reproduced
    before = [line.split(",") for line in (folder / "reports/train/history.csv").read_text().splitlines()]
    edit(folder / "params.yaml", "launcher: python ", "launcher: torchrun --standalone --nproc-per-node=2 ")
    assert stages_run(run("dvc", "repro", "dvc.yaml", cwd=folder)) == ["finetune", "train", "evaluate", "report"]
    after = [line.split(",") for line in (folder / "reports/train/history.csv").read_text().splitlines()]
    loss = before[0].index("loss")
    assert after[0] == before[0] and len(after) == len(before) > 2
    for row, other in zip(before[1:], after[1:], strict=True):
        assert row[:2] == other[:2] and abs(float(row[loss]) - float(other[loss])) < 0.01 * float(row[loss])
    client = MlflowClient(f"sqlite:///{folder}/.gesturepose/mlflow.db")
    experiment = client.get_experiment_by_name("gesturepose")
    newest = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=5)
    stages = sorted(
        found.data.tags["gesturepose.stage"] for found in newest if "gesturepose.dvc.stage" in found.data.tags
    )
    assert stages == ["evaluate", "finetune", "report", "train"]
    assert {found.info.status for found in newest} == {"FINISHED"}
    (trained,) = [found for found in newest if found.data.tags.get("gesturepose.stage") == "train"]
    steps = [metric.step for metric in client.get_metric_history(trained.info.run_id, "train/loss")]
    assert steps == [1, 2], "one process logs"
    assert not list((folder / ".gesturepose/checkpoints").glob("*"))
