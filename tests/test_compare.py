"""Comparing revisions: real git, DVC and MLflow; gains, counts and notes against the hand-written tables."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

import curve_project as made
from curve_project import JOINTS, RATIOS, SEEDS, shell, write_params, write_reports
from gesturepose.compare.comparison import Comparison, Gain, Row, compare_revisions
from gesturepose.compare.page import compare
from gesturepose.compare.revisions import read_revisions
from gesturepose.compare.snapshots import CommitFiles, WorkspaceFiles, dvc_md5
from gesturepose.errors import InputError
from gesturepose.tracking import find_trained
from gesturepose.tracking.comparisons import run_address
from gesturepose.tracking.store import open_store
from gesturepose.wording import points
from test_cli import Command, gesturepose, refused
from test_page import Reader
from test_tracking import isolate

FIXTURES = (gesturepose,)  # pytest finds them by their names here


@pytest.fixture(scope="session")
def curve_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once, with a store, which takes seconds."""
    root = tmp_path_factory.mktemp("curves") / "project"
    root.mkdir()
    made.build(root)
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, root)
        open_store()
    return root


@pytest.fixture
def project(curve_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "a project"
    shutil.copytree(curve_template, root, symlinks=True)
    isolate(monkeypatch, root)
    return root


def compared(root: Path, *names: str) -> Comparison:
    return compare_revisions(read_revisions(names, root))


def row_of(comparison: Comparison, direction: str, method: str, label: str) -> Row:
    (table,) = [table for table in comparison.tables if (table.direction, table.method) == (direction, method)]
    (row,) = [row for row in table.rows if row.label == label]
    return row


def gain_of(row: Row, place: int = 1) -> Gain:
    gain = row.gains[place]
    assert gain is not None
    return gain


def pck(method: str, ratio: float, seed: int, level: int, videos: range = range(5)) -> float:
    """Straight from the made-up counts."""
    return sum(made.hits(method, ratio, seed, video, level) for video in videos) / sum(JOINTS[v] for v in videos)


# What is compared


def test_scores_and_gains_are_those_of_the_tables(project: Path) -> None:
    found = compared(project, "first", "second")
    row = row_of(found, "pose", "weak", "0.15")
    before, after = ([pck("weak", 0.15, seed, level) for seed in SEEDS] for level in (1, 3))
    assert row.scores[1] is not None and row.scores[1].mean == pytest.approx(np.mean(after))
    assert row.scores[1].std == pytest.approx(np.std(after, ddof=1)) and row.scores[1].labelled_videos == "6"
    gain = gain_of(row)
    assert gain.difference.value == pytest.approx(np.mean(after) - np.mean(before))
    assert 0.0 < gain.difference.low <= gain.difference.value <= gain.difference.high
    assert (gain.difference.seeds, gain.difference.videos) == (3, 5)
    assert gain.significant and gain.mcnemar is None and row.gains[0] is None
    even = gain_of(row_of(found, "pose", "baseline", "0.15"))
    assert (even.difference.value, even.p_adjusted, even.significant) == (0.0, 1.0, False)
    assert found.notes == ()


def test_the_area_is_the_trapezoid_of_the_ratios(project: Path) -> None:
    row = row_of(compared(project, "first", "second"), "pose", "weak", "area over 0.15–0.4")
    areas = [
        np.mean([np.trapezoid([pck("weak", ratio, seed, level) for ratio in RATIOS], RATIOS) for seed in SEEDS]) / 0.25
        for level in (1, 3)
    ]
    scores = [score.mean for score in row.scores if score is not None]
    assert scores == pytest.approx(areas)
    assert gain_of(row).difference.value == pytest.approx(areas[1] - areas[0])


def test_mcnemar_counts_the_seed_averaged_classes(project: Path) -> None:
    gain = gain_of(row_of(compared(project, "first", "second"), "gesture", "weak", "0.4"))
    before, after = ([made.is_correct("weak", 0.4, 0, video, level) for video in range(5)] for level in (1, 3))
    assert gain.mcnemar is not None and before != after
    assert gain.mcnemar.only_first == sum(a > b for a, b in zip(after, before, strict=True))
    assert gain.mcnemar.only_second == sum(a < b for a, b in zip(after, before, strict=True))
    assert gain.mcnemar_adjusted >= gain.mcnemar.p


def test_p_values_are_corrected_over_their_table(project: Path) -> None:
    table = next(t for t in compared(project, "first", "second", "third").tables if t.method == "weak")
    gains = [gain for row in table.rows for gain in row.gains if gain is not None]
    raw = [gain.difference.p for gain in gains]
    assert len(gains) == 3  # 0.15 twice, 0.4 once: no ratio but 0.15 is in all three
    assert min(raw) == pytest.approx(2 / 2001) and max(raw) < 0.01  # no resample on the far side, all seeds alike
    smallest, middle, largest = sorted(raw)
    steps = np.maximum.accumulate([3 * smallest, 2 * middle, largest])
    assert sorted(gain.p_adjusted for gain in gains) == pytest.approx(list(steps))


def test_what_is_not_shared_is_said_and_left_out_of_the_pairs(project: Path) -> None:
    found = compared(project, "first", "third")
    gain = gain_of(row_of(found, "pose", "weak", "0.15"))
    assert (gain.difference.seeds, gain.difference.videos) == (2, 4)
    shared = range(1, 5)  # without palm_1, which is palm_0 there
    expected = [np.mean([pck("weak", 0.15, seed, level, shared) for seed in (0, 1)]) for level in (1, 3)]
    assert gain.difference.value == pytest.approx(expected[1] - expected[0])
    assert row_of(found, "pose", "weak", "0.25").scores[0] is None
    assert row_of(found, "pose", "weak", "0.4").gains == (None, None)
    text = "\n".join(found.notes)
    for said in (
        "first has no ratio 0.25.",
        "third has no ratio 0.4.",
        "do not share seed 2; paired tests between them are over 0, 1.",
        "share 4 test videos, over which they are tested; 2 are in one of them alone (palm_0, palm_1)",
        "different prepared data (fingerprint)",
    ):
        assert said in text
    assert len(found.notes) == 5  # once for all tables, not once for each


def test_a_method_and_a_metric_that_one_lacks_are_said(project: Path) -> None:
    write_reports(project, level=3, methods=("weak",))
    curves = project / "reports/weak/curves.csv"
    curves.write_text(curves.read_text().replace("accuracy", "top_1"))
    found = compared(project, "first", "workspace")
    assert found.notes == (
        "gesture: no metric accuracy in workspace.",
        "gesture: no metric top_1 in first.",
        "gesture: no method baseline in workspace.",
        "pose: no method baseline in workspace.",
    )
    assert gain_of(row_of(found, "pose", "weak", "0.4")).difference.value > 0
    curves.write_text(curves.read_text().replace("pck_30", "pck_31"))
    with pytest.raises(InputError, match="workspace has neither pck_30 of pose nor accuracy of gesture"):
        compared(project, "first", "workspace")


@pytest.mark.parametrize("fact", [{"split": "validation"}, {"protocol": "pose_cross_subject"}, {"name": "fpha"}])
def test_other_test_videos_are_never_paired(project: Path, fact: dict[str, str]) -> None:
    write_reports(project, level=3, data=fact)
    found = compared(project, "first", "workspace")
    assert all(gain is None for table in found.tables for row in table.rows for gain in row.gains)
    assert found.notes == (
        f"first and workspace have other test videos (data: {next(iter(fact))}): nothing is tested between them.",
    )
    assert [difference.what for difference in found.data] == list(fact)


def test_the_same_curve_under_two_commits_is_said(project: Path) -> None:
    shell(project, "git", "commit", "-q", "--allow-empty", "-m", "Nothing new")
    assert compared(project, "trunk", "trunk~1").notes[-1] == ("trunk and trunk~1 have the same curve, value by value.")


def test_settings_and_code_that_differ_are_named_with_their_values(project: Path) -> None:
    found = compared(project, "first", "second")
    assert [(item.what, item.values) for item in found.params] == [("weak.train_steps", ("400", "500"))]
    (losses,) = found.code  # plots.py changed as well, which no stage of the curve depends on
    assert losses.what == "src/gesturepose/losses.py"
    assert losses.values == tuple(
        dvc_md5(CommitFiles(project, name), "src/gesturepose/losses.py") for name in ("first", "second")
    )
    assert found.data == ()
    write_params(project, train_steps=500, wings=2)
    (wings,) = [item for item in compared(project, "second", "workspace").params if item.what == "weak.wings"]
    assert wings.values == (None, "2") and "not among the params" in wings.remark


# Stale results


@pytest.mark.parametrize("name", ["first", "second", "third", "workspace"])
def test_what_dvc_wrote_is_not_stale(project: Path, name: str) -> None:
    (revision,) = read_revisions([name], project)
    assert revision.lineage.stale == ()
    assert set(revision.lineage.code) == {
        f"src/gesturepose/{f}" for f in ("data.py", "losses.py", "metrics.py", "models")
    }
    assert revision.lineage.code["src/gesturepose/models"].endswith(".dir")


def test_a_folders_sum_is_dvcs_own_with_and_without_what_git_ignores(project: Path) -> None:
    lock = YAML(typ="safe").load((project / "pipelines/weak/dvc.lock").read_text())
    sums = {dep["path"]: dep["md5"] for dep in lock["stages"]["pose@0"]["deps"]}
    (project / "src/gesturepose/models/__pycache__").mkdir()
    (project / "src/gesturepose/models/__pycache__/pose.pyc").write_bytes(b"\0")
    for files in (CommitFiles(project, "trunk"), WorkspaceFiles(project)):
        assert dvc_md5(files, "src/gesturepose/models") == sums["src/gesturepose/models"]
        assert dvc_md5(files, "src/gesturepose/nothing.py") is None


def test_changed_code_settings_and_results_are_named(project: Path) -> None:
    (project / "src/gesturepose/models/deep/trunk.py").write_text("DEPTH = 50\n")
    write_params(project, train_steps=700, ratios=[0.15, 0.25], seeds=[0, 1])
    (project / "src/gesturepose/data.py").unlink()
    write_reports(project, level=2)
    stale = read_revisions(["workspace"], project)[0].lineage.stale
    assert stale[:3] == (
        "src/gesturepose/data.py is not what prepare ran with",
        "src/gesturepose/models is not what pose ran with",
        "weak.train_steps in params.yaml is not what pose ran with",
    )
    assert "reports/weak/curves.csv is not the file that dvc.lock names" in stale
    shell(project, "git", "commit", "-q", "-a", "-m", "Changed, and not run again")
    assert read_revisions(["HEAD"], project)[0].lineage.stale == stale


def test_data_prepared_anew_make_the_cells_stale(project: Path) -> None:
    (project / "data/raw.txt").write_text("other\n")
    shutil.copy(project / "data/raw.txt", project / "data/prepared")
    shell(project, "dvc", "commit", "-q", "-f", "dvc.yaml")
    assert read_revisions(["workspace"], project)[0].lineage.stale == ("data/prepared is not what pose ran with",)


def test_a_stage_that_leads_nowhere_does_not_count(project: Path) -> None:
    """DVC keeps the cells of a value that was taken out in the lock."""
    path = project / "pipelines/weak/dvc.lock"
    lock = YAML(typ="safe").load(path.read_text())
    dropped = json.loads(json.dumps(lock["stages"]["pose@0"]))
    dropped["outs"][0]["path"] = "data/dropped.txt"
    dropped["params"]["params.yaml"]["weak.train_steps"] = 3
    lock["stages"]["pose@9"] = dropped
    with path.open("w") as stream:
        YAML(typ="safe").dump(lock, stream)
    assert read_revisions(["workspace"], project)[0].lineage.stale == ()
    lock["stages"]["pose@9"]["outs"][0]["path"] = "data/weak/9.txt"  # of the folder that collect reads
    with path.open("w") as stream:
        YAML(typ="safe").dump(lock, stream)
    assert read_revisions(["workspace"], project)[0].lineage.stale == ()


def test_cells_trained_again_and_not_collected_are_stale(project: Path) -> None:
    path = project / "pipelines/weak/dvc.lock"
    lock = YAML(typ="safe").load(path.read_text())
    lock["stages"]["pose@1"]["outs"][0]["md5"] = "5" * 32
    with path.open("w") as stream:
        YAML(typ="safe").dump(lock, stream)
    assert read_revisions(["workspace"], project)[0].lineage.stale == ("data/weak is not what collect ran with",)


def test_a_file_of_a_folder_that_was_written_anew_makes_its_readers_stale(project: Path) -> None:
    """As the label files of one stage, each of which another cell reads."""
    path = project / "pipelines/weak/dvc.lock"
    lock = YAML(typ="safe").load(path.read_text())
    entries = [{"md5": "3" * 32, "relpath": "a.json"}, {"md5": "4" * 32, "relpath": "b.json"}]
    folder = "5" * 32 + ".dir"
    lock["stages"]["pose@0"]["deps"].append({"path": "data/labels/a.json", "md5": "3" * 32})
    lock["stages"]["pose@1"]["deps"].append({"path": "data/labels/b.json", "md5": "9" * 32})
    collect = lock["stages"]["collect"]  # any stage that leads to the curve
    collect["outs"].append({"path": "data/labels", "md5": folder})
    with path.open("w") as stream:
        YAML(typ="safe").dump(lock, stream)
    assert read_revisions(["workspace"], project)[0].lineage.stale == ()  # no cache tells what the folder held
    cached = project / ".dvc/cache/files/md5" / folder[:2] / folder[2:]
    cached.parent.mkdir(parents=True)
    cached.write_text(json.dumps(entries))
    assert read_revisions(["workspace"], project)[0].lineage.stale == ("data/labels/b.json is not what pose ran with",)


def test_without_a_lock_nothing_tells_where_it_came_from(project: Path) -> None:
    (project / "pipelines/weak/dvc.lock").unlink()
    (sentence,) = read_revisions(["workspace"], project)[0].lineage.stale
    assert "nothing tells what it was made from" in sentence


# Names


def test_a_revision_has_many_names(project: Path) -> None:
    sha = shell(project, "git", "rev-parse", "first").strip()
    shell(project, "git", "branch", "topic/odd-name", "second")
    names = [sha[:9], "HEAD~1", "trunk", "empty^{commit}"]
    for name, tag in zip(names, ("first", "second", "third"), strict=False):
        assert read_revisions([name], project)[0].commit == shell(project, "git", "rev-parse", tag).strip()
    first, topic, workspace = read_revisions([sha, "topic/odd-name", "workspace"], project)
    assert (first.subject, topic.subject) == ("The first curve", "A better one")
    assert workspace.curves.equals(read_revisions(["third"], project)[0].curves)
    assert not workspace.curves.equals(first.curves)


def test_a_dvc_experiment_is_a_revision(project: Path) -> None:
    write_params(project, train_steps=900, seeds=[0, 1])
    write_reports(project, level=2)
    shell(project, "dvc", "exp", "save", "-q", "-n", "patient-otter")
    shell(project, "git", "checkout", "-q", ".")
    found = compared(project, "second", "patient-otter")
    assert found.revisions[1].params["weak.train_steps"] == 900
    shell(project, "git", "update-ref", "refs/stash", "HEAD")  # a name of git's own, with no branch's folder
    with pytest.raises(InputError, match=r"no revision 'patient-oter'.*\n.*Did you mean patient-otter"):
        compared(project, "patient-oter")


def test_the_project_may_lie_below_the_repositorys_top(curve_template: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    shutil.copytree(curve_template, top / "inner", symlinks=True, ignore=shutil.ignore_patterns(".git", ".gesturepose"))
    shell(top, "git", "init", "-q")
    shell(top, "git", "add", "-A")
    shell(top, "git", "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "-m", "Moved")
    commit, workspace = read_revisions(["HEAD", "workspace"], top / "inner")
    assert commit.curves.equals(workspace.curves) and len(commit.curves)
    assert commit.lineage == workspace.lineage and commit.lineage.stale == ()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no revision to compare"),
        (["frist"], r"no revision 'frist'(.|\n)*Did you mean first"),
        (["wrkspace"], r"Did you mean workspace"),
        (["HAED"], r"Did you mean HEAD"),
        (["--help"], "no revision '--help'"),
        (["first", "first"], "first and first are the same revision"),
        (["workspace", "third", "workspace"], "workspace and workspace are the same revision"),
        (["third", "second", "trunk"], r"third and trunk are the same revision, [0-9a-f]{9}"),
        (["first", "empty"], r"empty has no reports/weak/curves.csv\n.*gesturepose matrix weak"),
        (["a:b"], "no revision 'a:b'"),
    ],
)
def test_names_that_cannot_be_compared_are_refused(project: Path, names: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        compared(project, *names)


def test_more_revisions_than_colours_are_refused(project: Path) -> None:
    for number in range(7):
        shell(project, "git", "commit", "-q", "--allow-empty", "-m", f"Empty {number}")
    with pytest.raises(InputError, match="8 revisions, and at most 7"):
        compared(project, *(f"HEAD~{number}" for number in range(8)))


def test_outside_git_there_are_no_revisions(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(InputError, match="is no git repository"):
        read_revisions(["main"], tmp_path)


# Files that are missing or of another schema


@pytest.mark.parametrize("name", made.REPORTS)
def test_a_report_that_is_missing_is_named_with_its_command(project: Path, name: str) -> None:
    shell(project, "git", "rm", "-q", f"reports/weak/{name}")
    with pytest.raises(InputError, match=rf"{name} of the revision workspace is not there") as caught:
        compared(project, "workspace")
    (command,) = re.findall(r"Bring it back: `(.*?)`", str(caught.value))
    shell(project, *command.split())
    assert compared(project, "workspace").tables
    shell(project, "git", "rm", "-q", f"reports/weak/{name}")
    shell(project, "git", "commit", "-q", "-m", "Without a report")
    for revision in ("workspace", "HEAD"):
        with pytest.raises(InputError, match=rf"{name} of the revision {revision} is not there(.|\n)*belongs in git"):
            compared(project, revision)
    (project / "pipelines/weak/dvc.lock").unlink()
    with pytest.raises(InputError, match=rf"workspace has no reports/weak/{name}\n.*dvc repro pipelines/weak/dvc.yaml"):
        compared(project, "workspace")


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("curves.csv", "direction,method,ratio", "direction,mode,share", "no column method or ratio in the revision"),
        ("curves.csv", "0.15,0,", "few,0,", r"curves.csv:2: ratio is 'few' in the revision workspace, no number"),
        ("curves.csv", "0.15,1,", "0.15,0,", r"curves.csv:4: stands twice .*: pose, baseline, 0.15, 0, pck_30"),
        ("per_video.csv", "hits_30", "hits", "no column hits_30"),
        ("per_video.csv", "palm_0,7.0,", "palm_0,x,", "per_video.csv:2: joints is 'x'"),
        ("seed_mean.csv", "video", "film", "no column video"),
        ("cells.csv", "weights", "model", "no column weights"),
        ("metrics.json", '"fingerprint"', '"print"', "no data.name, data.protocol"),
        ("metrics.json", "{", "", "no data.name"),
    ],
)
def test_another_schema_is_refused(project: Path, name: str, old: str, new: str, words: str) -> None:
    path = project / "reports/weak" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=words) as caught:
        compared(project, "first", "workspace")
    assert caught.value.file == Path("reports/weak") / name


def test_an_empty_table_and_broken_yaml_are_refused(project: Path) -> None:
    (project / "params.yaml").write_text("weak: [1\n")
    with pytest.raises(InputError, match=r"params\.yaml: not valid YAML in the revision workspace"):
        compared(project, "workspace")
    write_params(project)
    (project / "reports/weak/curves.csv").write_text("")
    with pytest.raises(InputError, match=r"curves\.csv: not a table in the revision workspace"):
        compared(project, "workspace")


def test_a_curve_that_dvc_keeps_is_read_from_its_cache_or_fetched_as_told(project: Path, tmp_path: Path) -> None:
    yaml = project / "pipelines/weak/dvc.yaml"
    yaml.write_text(yaml.read_text().replace("reports/weak/curves.csv: {cache: false}", "reports/weak/curves.csv"))
    shell(project, "git", "rm", "-q", "--cached", "reports/weak/curves.csv")
    shell(project, "dvc", "remote", "add", "-q", "-d", "there", str(tmp_path / "remote"))
    made.commit(project, "DVC keeps the curve", tag="kept")
    shell(project, "dvc", "push", "-q")
    shell(project, "git", "checkout", "-q", "second")
    (kept,) = read_revisions(["kept"], project)
    assert kept.curves.equals(read_revisions(["third"], project)[0].curves) and kept.lineage.stale == ()
    shutil.rmtree(project / ".dvc/cache")
    with pytest.raises(InputError, match="neither in git nor in DVC's cache") as caught:
        read_revisions(["kept"], project)
    (command,) = re.findall(r"Fetch it: `(.*?)`", str(caught.value))
    shell(project, "git", "checkout", "-q", "kept")  # where the remote is known
    shell(project, *command.split())
    assert read_revisions(["kept"], project)[0].curves.equals(kept.curves)


# The page, the figure, the run


def test_the_page_shows_it_all_and_fetches_nothing(project: Path) -> None:
    store = open_store()
    (first,) = read_revisions(["first"], project)
    trained = first.cells.query("direction == 'pose' and method == 'weak' and ratio == 0.4 and seed == 2")[
        "weights"
    ].item()
    runs = [store.client.create_run(store.experiment_id, tags={"gesturepose.weights": trained}) for _ in range(2)]
    store.client.set_terminated(runs[0].info.run_id)
    (project / "src/gesturepose/losses.py").write_text("WEIGHT = 5\n")
    written = compare(["first", "second", "workspace"])
    assert written.page == project / "reports/compare/index.html" and written.figure.read_bytes().startswith(b"\x89PNG")
    html = written.page.read_text()
    reader = Reader(html)
    assert "script" not in reader.tags and "link" not in reader.tags and "url(" not in html and "@import" not in html
    pictures = [reference for reference in reader.references if reference.startswith("data:image/png;base64,")]
    addresses = [reference for reference in reader.references if reference not in pictures]
    newest = find_trained([trained])[trained]
    assert len(pictures) == 1 and addresses == [newest]
    assert newest == f"http://127.0.0.1:5000/#/experiments/{store.experiment_id}/runs/{runs[1].info.run_id}"
    gain = gain_of(row_of(written.comparison, "pose", "weak", "0.15"))
    for words in (
        "Synthetic data: these numbers say nothing about FPHA",
        "workspace is stale",
        "src/gesturepose/losses.py is not what pose ran with",
        f"{points(gain.difference.value)} points",
        "no significant difference",
        "McNemar: alone right on",
        "runs: seed 0 (no run in this store), seed 1 (no run in this store), seed 2",
        "runs: none in this store",
        "(preliminary)",
        "weak.train_steps",
        "synthetic, protocol official, split test, 5 videos, seeds 0, 1, 2",
        "The first curve",
        "16 labelled videos",
        shell(project, "git", "rev-parse", "--short=12", "second").strip(),
        "do not share seed 2",
    ):
        assert words in reader.text, words
    assert shell(project, "git", "status", "--porcelain").split() == ["M", "src/gesturepose/losses.py"]


def test_the_comparison_is_a_run_with_page_picture_and_gains(project: Path) -> None:
    written = compare(["first", "second"])
    store = open_store()
    run = store.client.get_run(written.run_id)
    assert run.info.status == "FINISHED" and run.data.tags["gesturepose.kind"] == "comparison"
    second = shell(project, "git", "rev-parse", "second").strip()
    assert run.data.tags["gesturepose.revision.1"] == f"second {second}"
    gain = gain_of(row_of(written.comparison, "gesture", "weak", "0.4"))
    assert run.data.metrics["gain/gesture/weak/0.4/1"] == pytest.approx(gain.difference.value)
    assert run.data.metrics["gain/pose/weak/area/1/p_adjusted"] <= 1.0
    assert sorted(file.path for file in store.client.list_artifacts(written.run_id)) == ["curves.png", "index.html"]


def test_equal_inputs_give_equal_pages(project: Path) -> None:
    pages = [compare(["first", "second"], project / name).page.read_bytes() for name in ("one", "two")]
    assert pages[0] == pages[1]


def test_a_servers_run_is_shown_by_the_server_and_without_its_password() -> None:
    class At:
        uri, experiment_id = "https://someone:secret@example.org:8443", "7"

    assert run_address(At(), "abc") == "https://example.org:8443/#/experiments/7/runs/abc"  # type: ignore[arg-type]


def test_the_command_says_gains_notes_and_places(project: Path, gesturepose: Command) -> None:
    done = gesturepose("compare", "first", "third", "--out", project / "elsewhere")
    assert (done.code, done.err) == (0, "")
    assert (
        "pose weak 0.15 (pck_30): first 38.5 ± 4.4 %, 3 seeds; third 57.7 ± 5.4 %, 2 seeds (preliminary), +" in done.out
    )
    assert "note: third has no ratio 0.4.\n" in done.out
    assert str(project / "elsewhere/index.html") in done.out and (project / "elsewhere/curves.png").exists()
    alone = gesturepose("compare", "first")
    assert alone.code == 0 and "points" not in alone.out and "first 38.5 ± 4.4 %, 3 seeds\n" in alone.out
    refused(gesturepose("compare", "first", "frist"), "Did you mean first")
    assert gesturepose("compare").code == 2
    (project / "file").write_text("")
    refused(gesturepose("compare", "first", "--out", project / "file"), "cannot be written")


# DVC's own plots


def test_dvc_plots_diff_draws_the_curves_of_each_revision(project: Path) -> None:
    drawn = json.loads(shell(project, "dvc", "plots", "diff", "first", "second", "workspace", "--json"))
    assert "errors" not in drawn
    assert set(drawn["data"]) == {"Label efficiency, pose", "Label efficiency, gesture"}
    for name, title in (("pose", "pose pck_30"), ("gesture", "gesture accuracy")):
        (plot,) = drawn["data"][f"Label efficiency, {name}"]
        content = plot["content"]
        assert "DVC_METRIC" not in json.dumps(content) and content["title"] == title
        assert content["transform"][0]["filter"] == f"datum.direction + ' ' + datum.metric == '{title}'"
        rows = content["data"]["values"]
        kept = [row for row in rows if f"{row['direction']} {row['metric']}" == title]
        assert {row["rev"] for row in kept} == {"first", "second", "workspace"}
        assert len(kept) == 2 * 2 * 3 + 2 * 2 * 3 + 2 * 2 * 2  # methods, ratios, seeds of each revision
        (one,) = [
            row
            for row in kept
            if (row["rev"], row["method"], row["ratio"], row["seed"]) == ("second", "weak", "0.4", "2")
        ]
        if name == "pose":
            assert float(one["value"]) == pytest.approx(pck("weak", 0.4, 2, 3))
