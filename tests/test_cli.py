"""The command line as a user meets it: exit codes, messages without a traceback, what each command leaves behind."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from gesturepose.cli import main
from gesturepose.data.fpha import open_root
from gesturepose.data.prepare import prepare
from gesturepose.data.prepared import PreparedData
from gesturepose.params import PrepareSettings, load_params
from gesturepose.tracking import EXPERIMENT, stage_run, tracking_uri
from gesturepose.tracking.store import open_store
from test_tracking import Settings, bare_template, environment, executions, only, project, stages, start_stage, template

PARAMS = Path(__file__).parent.parent / "params.yaml"
SCRIPT = Path(sys.executable).with_name("gesturepose")
FIXTURES = (bare_template, project, template)  # pytest finds them by their names here
SPLIT = "data_split_action_recognition.txt"
START_LIMIT_S = 120.0  # only for a server that never answers


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def gesturepose(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The console script's function with these arguments."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["gesturepose", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        code = end.value.code
        assert code is None or isinstance(code, int)
        return Result(code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def root(synthetic_root: Path, tmp_path: Path) -> Path:
    """A copy that may be broken."""
    return Path(shutil.copytree(synthetic_root, tmp_path / "root"))


def one_skeleton(root: Path) -> Path:
    return min(root.glob("Hand_pose_annotation_v1/*/*/*/skeleton.txt"))


def refused(result: Result, *words: str) -> None:
    assert result.code == 2
    assert result.err.startswith("error: ") and "Traceback" not in result.err
    for word in words:
        assert word in result.err


# The console script


def test_the_console_script_ends_a_mistake_with_a_message_and_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCRIPT, "verify", tmp_path / "nowhere"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    refused(Result(done.returncode, done.stdout, done.stderr), f"{tmp_path / 'nowhere'}: no such folder")
    assert done.stdout == ""


def test_help_names_every_command_and_a_wrong_option_is_a_usage_error(gesturepose: Command, tmp_path: Path) -> None:
    shown = gesturepose("--help")
    assert shown.code == 0
    for name in (
        "profile",
        "verify",
        "generate",
        "render",
        "compare",
        "ui",
        "link",
        "matrix",
        "search",
        "promote",
        "doctor",
    ):
        assert f" {name} " in shown.out
    for wrong in (
        ("generate", tmp_path / "out", "--size", "huge"),
        ("generate", tmp_path / "out", "--image-width", 7),
        ("generate", tmp_path / "out", "--seed", -1),
        ("render", tmp_path, tmp_path / "out", "--limit", 0),
        ("ui", "--port", 65536),
        ("tidy",),
    ):
        result = gesturepose(*wrong)
        assert result.code == 2 and "Usage: " in result.err and "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


# profile


def test_profile_says_what_it_changed_and_then_nothing(
    gesturepose: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(gesturepose("profile", "test"), "params.yaml: no such file")
    shutil.copy(PARAMS, tmp_path)
    epochs = load_params().train.epochs
    first = gesturepose("profile", "test")
    assert first.code == 0 and "profile test\n" in first.out
    assert f"  train.epochs: {epochs} → 2\n" in first.out
    assert load_params().train.epochs == 2
    assert "profile test, nothing to change" in gesturepose("profile", "test").out
    before = Path("params.yaml").read_text()
    refused(gesturepose("profile", "tst"), "no profile 'tst'", "Did you mean test?")
    assert Path("params.yaml").read_text() == before


# verify


def test_a_clean_root_gives_0_and_a_contact_sheet(gesturepose: Command, synthetic_root: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheets" / "overlays.png"
    result = gesturepose("verify", synthetic_root, "--sheet", sheet)
    assert result.code == 0, result.out
    assert "clean: 0 broken, 0 suspicious" in result.out and str(sheet) in result.out
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_a_frozen_hand_gives_1_and_a_short_row_2(gesturepose: Command, root: Path) -> None:
    skeleton = one_skeleton(root)
    rows = skeleton.read_text().splitlines()
    joints = rows[0].split(" ", 1)[1]
    skeleton.write_text("".join(f"{frame} {joints}\n" for frame in range(len(rows))))
    key = skeleton.parent.relative_to(root / "Hand_pose_annotation_v1").as_posix()
    frozen = gesturepose("verify", root)
    assert frozen.code == 1, frozen.out
    assert "suspicious (1)" in frozen.out and f"{key}: " in frozen.out
    skeleton.write_text("\n".join([*rows[:2], rows[2].rsplit(" ", 1)[0], *rows[3:]]) + "\n")
    short = gesturepose("verify", root)
    assert short.code == 2
    assert f"{skeleton.relative_to(root)}:3: 63 columns" in short.out
    assert short.err == "" or "Traceback" not in short.err


def test_verify_goes_on_past_a_root_without_split_and_camera(gesturepose: Command, root: Path) -> None:
    (root / SPLIT).unlink()
    (root / "camera.json").write_text("{")
    result = gesturepose("verify", root)
    assert result.code == 2
    assert f"{SPLIT}: the split file is missing" in result.out and "camera.json" in result.out


# generate and render


def test_annotations_then_pictures_for_a_part_then_prepared_data(gesturepose: Command, tmp_path: Path) -> None:
    annotations, out = tmp_path / "annotations", tmp_path / "rendered"
    options = ("--size", "test", "--image-width", 160, "--workers", 1)
    assert gesturepose("generate", annotations, *options, "--annotations-only").code == 0
    assert not (annotations / "Video_files").exists()
    assert gesturepose("verify", annotations).code == 0  # with no frame at all
    refused(gesturepose("render", annotations, out, "--subject", 9), "no subject 9")
    refused(gesturepose("render", annotations, out, "--action", "fist_relaese"), "'fist_release'")
    refused(gesturepose("render", annotations, annotations / "inside"), "lies within the annotations")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations"]

    assert gesturepose("render", annotations, out, "--limit", 2, "--image-width", 96, "--workers", 1).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations", "rendered"]
    opened = open_root(out, validation=0.0)
    assert (opened.camera.width, opened.camera.height) == (96, 54)
    assert [sequence.split for sequence in opened.sequences] == ["train", "test"]
    for sequence in opened.sequences:
        part = Path("Hand_pose_annotation_v1", sequence.key, "skeleton.txt")
        assert (out / part).read_bytes() == (annotations / part).read_bytes()
    settings = PrepareSettings(image_size=32, crop="clip", box_margin=1.3, max_unreadable=0.0)
    prepare(opened, tmp_path / "prepared", settings, workers=1)
    data = PreparedData.open(tmp_path / "prepared")
    assert data.readable.all() and data.gestures == opened.gestures
    assert (data.frames.reshape(len(data.frames), -1).std(axis=1) > 5.0).all()  # a picture, not a plane
    assert gesturepose("verify", out).code == 0


def test_a_gpu_that_is_not_there_is_said_before_anything_is_written(
    gesturepose: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = gesturepose("generate", tmp_path / "root", "--size", "test", "--device", "cuda")
    assert done.code == 2 and "no CUDA device is there" in done.err
    assert list(tmp_path.iterdir()) == []


def test_generate_does_not_replace_what_is_not_its_own(gesturepose: Command, tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "take_1.mp4").write_bytes(b"mine")
    options = ("--size", "test", "--annotations-only")
    refused(gesturepose("generate", tmp_path / "recordings", *options), "take_1.mp4", "Name a new folder")
    assert [path.name for path in (tmp_path / "recordings").iterdir()] == ["take_1.mp4"]


# ui


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(process: psutil.Process) -> list[tuple[str, int]]:
    """Every address that a process and its children accept TCP connections on."""
    found = []
    for member in (process, *process.children(recursive=True)):
        connections = member.net_connections(kind="tcp")
        found += [(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN]
    return found


def answer(url: str, process: subprocess.Popen[str]) -> bytes:
    """What the server says, once it has started."""
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return bytes(response.read())
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.fixture
def served(project: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`gesturepose ui` at work, and its port."""
    port = free_port()
    process = subprocess.Popen(
        [SCRIPT, "ui", "--port", str(port)],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process, port
    finally:
        members = psutil.Process(process.pid).children(recursive=True)
        for member in (*members, process):  # the server itself takes seconds to end
            member.kill()
        process.communicate()


def test_ui_shows_the_projects_store_on_this_machine_alone(
    served: tuple[subprocess.Popen[str], int], gesturepose: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, port = served
    address = f"http://127.0.0.1:{port}"
    assert b"<html" in answer(address, process)
    found = json.loads(answer(f"{address}/ajax-api/2.0/mlflow/experiments/search?max_results=9", process))
    assert EXPERIMENT in {experiment["name"] for experiment in found["experiments"]}
    sockets = listening(psutil.Process(process.pid))
    assert ("127.0.0.1", port) in sockets
    assert {ip for ip, _ in sockets} <= {"127.0.0.1", "::1"}
    assert process.stdout is not None
    assert process.stdout.readline() == f"MLflow store: {tracking_uri()}\n"
    assert process.stdout.readline().startswith(address)
    # Where the store is a server there is nothing to start.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    again = gesturepose("ui")
    assert (again.code, again.err) == (0, "")
    assert again.out == f"MLflow store: {address}\nA server already shows it at that address.\n"


def test_commands_outside_a_project_say_so(
    gesturepose: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    refused(gesturepose("doctor"), "params.yaml: no such file", "Run from the project's folder.")
    shutil.copy(PARAMS, tmp_path)
    for command in (("doctor",), ("link",), ("ui", "--port", free_port())):
        refused(gesturepose(*command), f"{tmp_path} is not inside a project")
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


# link


def test_link_says_which_stage_has_no_run(project: Path, gesturepose: Command) -> None:
    (project / "data" / "first.txt").write_text("result of the first stage")
    with stage_run("first", params=Settings(), sections=["train"]) as run:
        pass
    found = gesturepose("link")
    assert found.code == 1
    lines = dict(line.split(maxsplit=1) for line in found.out.splitlines())
    assert lines == {"first": run.run_id, "second": "no finished run"}
    with stage_run("second", params=Settings(), sections=["train"]):
        pass
    found = gesturepose("link")
    assert found.code == 0 and "no finished run" not in found.out


# doctor


def test_doctor_finds_and_ends_the_run_of_a_killed_process(project: Path, gesturepose: Command) -> None:
    process = start_stage(project, "first", "wait")
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    settings = (project / "params.yaml").read_text()
    shutil.copy(PARAMS, project)
    assert "dead runs     0\n" in gesturepose("doctor").out  # it lives
    process.send_signal(signal.SIGKILL)
    process.communicate()
    store = open_store()

    found = gesturepose("doctor")
    assert found.code == 0
    assert f"MLflow store  {tracking_uri()}\n" in found.out
    assert "data.root     data/synthetic (not there yet)\n" in found.out
    assert "dead runs     2; --reap ends them\n" in found.out  # the stage and its execution
    assert store.client.get_run(run_id).info.status == "RUNNING"  # looking changes nothing

    assert "dead runs     2 ended\n" in gesturepose("doctor", "--reap").out
    assert only(stages(store)).info.run_id == run_id
    assert only(stages(store)).info.status == "KILLED"
    assert only(executions(store)).info.status == "FAILED"
    again = gesturepose("doctor", "--reap")
    assert again.code == 0 and "dead runs     0\n" in again.out and again.out.endswith("dead trials   0\n")
    (project / "params.yaml").write_text(settings)
    refused(gesturepose("doctor"), "unknown key train.rate")


def test_doctor_does_not_show_a_password(project: Path, gesturepose: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(PARAMS, project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:secret@127.0.0.1:{free_port()}")
    result = gesturepose("doctor")
    refused(result, "someone:***@127.0.0.1", "does not work")
    assert "secret" not in result.out + result.err


def test_ctrl_c_is_answered(gesturepose: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gesturepose.params.load_params", interrupted)
    found = gesturepose("doctor")
    assert (found.code, found.err) == (130, "interrupted; the same command goes on from what is done\n")
