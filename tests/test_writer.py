"""Roots written by the generator, read back by the reader."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from gesturepose.data.fpha import open_root, read_split
from gesturepose.errors import InputError
from gesturepose.geometry import FPHA_CAMERA
from gesturepose.skeleton import FROM_FPHA, TO_FPHA
from gesturepose.synthetic.layout import Entry, skeleton_text, split_text
from gesturepose.synthetic.motion import joints_cam_mm
from gesturepose.synthetic.plan import gestures, plan
from gesturepose.synthetic.writer import MARK_FILE, render_root, write_root

WIDTH = 160


def contents(root: Path) -> dict[str, str]:
    """Path → hash of every file below a folder."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("annotations") / "root"
    write_root(out, size="test", image_width=WIDTH, seed=0, workers=1, annotations_only=True)
    return out


PART = {"image_width": 96, "seed": 3, "subjects": (2,), "actions": ("palm_release", "fist_release"), "limit": 3}


@pytest.fixture(scope="module")
def rendered(annotations, tmp_path_factory) -> Path:
    """Pictures for three videos of two of the classes."""
    out = tmp_path_factory.mktemp("rendered") / "root"
    render_root(annotations, out, workers=1, **PART)
    return out


# Files


def test_a_skeleton_has_fphas_order_and_reads_back(annotations):
    root = open_root(annotations, validation=0.0, need_frames=False)
    by_key = {video.key: video for video in plan("test", 0)}
    assert {sequence.key for sequence in root.sequences} == set(by_key)
    for sequence in root.sequences:
        video = by_key[sequence.key]
        joints_world_mm = root.read_joints_world_mm(sequence)
        assert np.allclose(root.camera.world_to_cam(joints_world_mm), joints_cam_mm(video), atol=2e-4)
        assert (sequence.gesture, sequence.split) == (video.gesture, video.split)
    first = root.skeleton_path(root.sequences[0]).read_text().splitlines()[0].split()
    assert len(first) == 64
    native_mm = np.array(first[1:], dtype=float).reshape(21, 3)
    assert np.allclose(native_mm[list(FROM_FPHA)], root.read_joints_world_mm(root.sequences[0])[0])


def test_skeleton_text_is_fixed_point():
    joints_mm = np.arange(2 * 21 * 3, dtype=float).reshape(2, 21, 3) / 7
    rows = skeleton_text(joints_mm).splitlines()
    assert [row.split()[0] for row in rows] == ["0", "1"]
    assert rows[1].split()[1:4] == [f"{value:.4f}" for value in joints_mm[1, TO_FPHA[0]]]


def test_camera_is_fphas_at_another_resolution(annotations):
    root = open_root(annotations, need_frames=False)
    assert root.name == "synthetic"
    assert root.camera == FPHA_CAMERA.scaled(WIDTH / 1920)
    assert (root.camera.width, root.camera.height) == (160, 90)
    assert root.gestures == gestures("test")


def test_lists_agree_with_each_other(annotations):
    lines = read_split(annotations / "data_split_action_recognition.txt")
    assert [line.split for line in lines] == ["train"] * 16 + ["test"] * 8
    for subject in (1, 2):
        rows = (annotations / f"Subjects_info/Subject_{subject}_info.txt").read_text().splitlines()[3:]
        listed = {f"Subject_{subject}/{row.split()[0]}/{row.split()[1]}": int(row.split()[2]) for row in rows}
        assert listed == {video.key: video.frames for video in plan("test", 0) if video.subject == subject}
    actions = (annotations / "action_object_info.txt").read_text().splitlines()
    assert [line.split()[:2] for line in actions] == [[str(i + 1), name] for i, name in enumerate(gestures("test"))]


def test_split_text_has_both_headers_even_for_an_empty_side():
    entry = Entry("Subject_1/fist_form/2", 0, "train", 5, 0, 0)
    assert split_text([entry]) == "Training 1\nSubject_1/fist_form/2 0\nTest 0\n"


def test_the_same_arguments_write_the_same_bytes(annotations, tmp_path):
    write_root(tmp_path / "again", size="test", image_width=WIDTH, seed=0, workers=1, annotations_only=True)
    write_root(tmp_path / "other", size="test", image_width=WIDTH, seed=1, workers=1, annotations_only=True)
    assert contents(tmp_path / "again") == contents(annotations)
    assert contents(tmp_path / "other") != contents(annotations)


# Pictures


def test_a_rendered_part_is_a_root_with_a_frame_for_every_row(rendered, annotations):
    root, source = open_root(rendered, validation=0.0), open_root(annotations, validation=0.0, need_frames=False)
    assert root.name == "synthetic, rendered"
    assert root.camera == source.camera.scaled(96 / 160)
    assert [sequence.split for sequence in root.sequences] == ["train", "train", "test"]
    for sequence in root.sequences:
        assert root.skeleton_path(sequence).read_bytes() == source.skeleton_path(sequence).read_bytes()
        rows = len(root.read_joints_world_mm(sequence))
        folder = root.frame_path(sequence, 0).parent
        assert sorted(path.name for path in folder.iterdir()) == [f"color_{frame:04d}.jpeg" for frame in range(rows)]
        picture = cv2.imread(str(root.frame_path(sequence, rows - 1)))
        assert picture.shape == (54, 96, 3)
        assert picture.std() > 5


def test_left_out_classes_close_the_ranks(rendered, annotations):
    """Classes 1 and 3 become 0 and 1, in their old order."""
    root, source = open_root(rendered, validation=0.0), open_root(annotations, validation=0.0, need_frames=False)
    assert root.gestures == (source.gestures[1], source.gestures[3]) == ("palm_release", "fist_release")
    assert {sequence.subject for sequence in root.sequences} == {2}
    assert {(s.action, s.gesture) for s in root.sequences} == {("palm_release", 0), ("fist_release", 1)}


def stop_when_started(annotations: Path, out: Path) -> None:
    """Kill a run of its own process once its unfinished folder is there; the first picture is seconds away then."""
    code = (
        "from pathlib import Path; from gesturepose.synthetic.writer import render_root; "
        f"render_root(Path({str(annotations)!r}), Path({str(out)!r}), workers=1, **{PART!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    fingerprint = out.with_name(f".{out.name}.unfinished") / "fingerprint.txt"
    while process.poll() is None and not (fingerprint.is_file() and fingerprint.read_text()):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_the_number_of_workers_changes_nothing_and_a_stopped_run_goes_on(rendered, annotations, tmp_path):
    """As if killed: one video done, one begun, one not, the folder not in its place yet."""
    fingerprint = tmp_path / ".root.unfinished" / "fingerprint.txt"
    keys = [line.key for line in read_split(rendered / "data_split_action_recognition.txt")]
    stop_when_started(annotations, tmp_path / "root")
    shutil.copytree(rendered / "Video_files" / keys[0], fingerprint.parent / "Video_files" / keys[0])
    begun = fingerprint.parent / "Video_files" / keys[1] / "color.partial"
    begun.mkdir(parents=True)
    (begun / "color_0099.jpeg").write_bytes(b"half")
    kept = fingerprint.parent / "Video_files" / keys[0] / "color" / "color_0000.jpeg"
    before = kept.stat().st_mtime_ns
    render_root(annotations, tmp_path / "root", workers=2, **PART)
    assert contents(tmp_path / "root") == contents(rendered)
    assert (tmp_path / "root" / kept.relative_to(fingerprint.parent)).stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_renders_the_same_frames(rendered, annotations, tmp_path):
    render_root(annotations, tmp_path / "root", device="cuda", workers=2, **PART)
    paths = sorted((rendered / "Video_files").rglob("*.jpeg"))
    assert contents(tmp_path / "root").keys() == contents(rendered).keys() and paths
    for path in paths:
        picture = cv2.imread(str(tmp_path / "root" / path.relative_to(rendered))).astype(int)
        assert np.abs(picture - cv2.imread(str(path))).mean() < 1


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subjects": (5,)}, "no subject 5; there are 1, 2"),
        ({"actions": ("fist_from",)}, "no action 'fist_from'; the nearest known is 'fist_form'"),
        ({"limit": 0}, "limit is 0"),
        ({"image_width": 3}, "image_width is 3"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_a_bad_choice_is_named_and_leaves_nothing(annotations, tmp_path, arguments, message):
    defaults = {"image_width": None, "seed": 0, "workers": 1}
    with pytest.raises(InputError, match=message):
        render_root(annotations, tmp_path / "root", **(defaults | arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_written(annotations, tmp_path):
    with pytest.raises(InputError, match="device is cuda, but no CUDA device is there"):
        render_root(annotations, tmp_path / "root", image_width=None, seed=0, device="cuda", workers=1)
    with pytest.raises(InputError, match="device is cuda, but no CUDA device is there"):
        write_root(tmp_path / "root", size="test", image_width=WIDTH, seed=0, device="cuda", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_annotations_are_not_written_into(annotations):
    before = contents(annotations)
    for out in (annotations, annotations / "inside", annotations.parent):
        with pytest.raises(InputError, match="annotations"):
            render_root(annotations, out, image_width=None, seed=0, workers=1)
    assert contents(annotations) == before


def test_only_an_earlier_result_is_replaced(annotations, tmp_path):
    out = tmp_path / "root"
    arguments = {"size": "test", "image_width": WIDTH, "workers": 1, "annotations_only": True}
    write_root(out, seed=1, **arguments)
    write_root(out, seed=0, **arguments)
    assert contents(out) == contents(annotations)
    (out / MARK_FILE).unlink()  # now it could be anybody's recordings
    before = contents(out)
    with pytest.raises(InputError, match="not an earlier result"):
        write_root(out, seed=1, **arguments)
    assert contents(out) == before
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        write_root(file, seed=1, **arguments)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    parent = tmp_path / "parent"
    parent.write_text("a file where a folder is needed")
    with pytest.raises(InputError, match="cannot be written"):
        write_root(parent / "root", size="test", image_width=WIDTH, seed=0, workers=1, annotations_only=True)


def test_camera_file_holds_the_pose(annotations):
    stored = json.loads((annotations / "camera.json").read_text())
    assert stored["translation_mm"] == list(FPHA_CAMERA.translation_mm)
    assert np.array_equal(stored["rotation"], FPHA_CAMERA.rotation)
