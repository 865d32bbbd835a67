from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import fpha_tree as tree
from gesturepose.data.fpha import FPHA_GESTURES, read_skeleton
from gesturepose.data.jpeg import inspect_jpeg
from gesturepose.data.verify import VerifyReport, verify_root
from gesturepose.errors import InputError

SPLIT = "data_split_action_recognition.txt"
LISTED = tree.videos(subjects=3, takes=4)
KEY = "Subject_2/wave/1"
FRAMES = next(video.frames for video in LISTED if video.key == KEY)
ROOTED_KEY = f"{tree.ANNOTATIONS}/{KEY}/skeleton.txt"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree.write_root(tmp_path_factory.mktemp("clean") / "root", LISTED)


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "root"))


def verify(root: Path) -> VerifyReport:
    return verify_root(root, progress=False)


def change_pose(root: Path, change: Callable[[np.ndarray], np.ndarray], key: str = KEY) -> None:
    path = tree.skeleton_path(root, key)
    path.write_text(tree.skeleton_text(change(read_skeleton(path))))


def change_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def frozen(pose: np.ndarray) -> np.ndarray:
    return np.repeat(pose[:1], len(pose), axis=0)


def jumping(pose: np.ndarray) -> np.ndarray:
    pose[3:] += [350.0, 0, 0]
    return pose


def long_bone(pose: np.ndarray) -> np.ndarray:
    pose[2, 8] += [0.0, -180.0, 0]  # the index fingertip
    return pose


def in_metres(pose: np.ndarray) -> np.ndarray:
    return pose / 1000


def behind_camera(pose: np.ndarray) -> np.ndarray:
    pose[1] -= [0, 0, 700.0]
    return pose


def beside_image(pose: np.ndarray) -> np.ndarray:
    return pose + np.array([2000.0, 0, 0])


def drop_rows(root: Path) -> None:
    path = tree.skeleton_path(root, KEY)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))


def cut_last_column(root: Path) -> None:
    path = tree.skeleton_path(root, KEY)
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:3], rows[3].rsplit(" ", 1)[0], *rows[4:]]) + "\n")


def cut_jpeg(root: Path) -> None:
    path = tree.frame_path(root, KEY, 2)
    path.write_bytes(path.read_bytes()[:-40])


# name of the fault: how to plant it, level, where, what the report says
FAULTS: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "missing skeleton": (
        lambda r: tree.skeleton_path(r, KEY).unlink(),
        *("broken", f"{SPLIT}:15", f"{KEY} is missing"),
    ),
    "empty skeleton": (lambda r: tree.skeleton_path(r, KEY).write_text(""), "broken", ROOTED_KEY, "skeleton is empty"),
    "63 columns": (cut_last_column, "broken", f"{ROOTED_KEY}:4", "63 columns; expected 64"),
    "NaN": (
        lambda r: change_text(tree.skeleton_path(r, KEY), "\n2 ", "\n2 nan "),
        *("broken", f"{ROOTED_KEY}:3", "65 columns"),
    ),
    "frozen": (lambda r: change_pose(r, frozen), "suspicious", KEY, "frozen: 100% of its rows"),
    "jump": (lambda r: change_pose(r, jumping), "suspicious", KEY, "jump: wrist moves 35"),
    "long bone": (
        lambda r: change_pose(r, long_bone),
        *("suspicious", KEY, "impossible bone: index_dip to index_tip is 1"),
    ),
    "metres": (lambda r: change_pose(r, in_metres), "suspicious", KEY, "impossible bone: wrist to "),
    "behind the camera": (
        lambda r: change_pose(r, behind_camera),
        *("suspicious", KEY, "joints behind the camera (depth ≤ 0) in 1 frames, first in 1"),
    ),
    "outside": (
        lambda r: change_pose(r, beside_image),
        *("suspicious", KEY, f"all joints outside the image in {FRAMES} of {FRAMES} frames"),
    ),
    "fewer rows": (drop_rows, "broken", KEY, f"{FRAMES - 2} skeleton rows, {FRAMES} frames"),
    "missing frame": (
        lambda r: tree.frame_path(r, KEY, 3).unlink(),
        *("broken", KEY, f"{FRAMES} skeleton rows, {FRAMES - 1} frames; color_0003.jpeg is absent"),
    ),
    "no frames": (
        lambda r: shutil.rmtree(tree.frame_path(r, KEY, 0).parent),
        *("broken", KEY, f"no frames; expected Video_files/{KEY}/color/color_0000.jpeg"),
    ),
    "truncated JPEG": (cut_jpeg, "broken", f"Video_files/{KEY}/color/color_0002.jpeg", "truncated JPEG"),
    "empty JPEG": (
        lambda r: tree.frame_path(r, KEY, 1).write_bytes(b""),
        *("broken", f"Video_files/{KEY}/color/color_0001.jpeg", "empty file"),
    ),
    "not a JPEG": (
        lambda r: tree.frame_path(r, KEY, 1).write_text("version https://example.org/spec/v1"),
        *("broken", f"Video_files/{KEY}/color/color_0001.jpeg", "not a JPEG"),
    ),
    "frame size": (
        lambda r: tree.write_frame(tree.frame_path(r, KEY, 4), width=61, height=97),
        *("broken", KEY, "1 frames are 61×97; the camera's are 97×61"),
    ),
    "split count": (
        lambda r: change_text(r / SPLIT, "Training 18", "Training 17"),
        *("broken", f"{SPLIT}:1", "the header announces 17 Training sequences, 18 follow"),
    ),
    "malformed split line": (
        lambda r: change_text(r / SPLIT, f"{KEY} 1", f"{KEY}"),
        *("broken", f"{SPLIT}:11", "malformed line"),
    ),
    "duplicate": (
        lambda r: change_text(r / SPLIT, f"{KEY} 1", "Subject_1/open_box/1 0"),
        *("broken", f"{SPLIT}:11", "Subject_1/open_box/1 stands twice; the first is on line 2"),
    ),
    "class conflict": (
        lambda r: change_text(r / SPLIT, f"{KEY} 1", f"{KEY} 0"),
        *("broken", f"{SPLIT}:11", "class 'wave' has id 0, on line 5 1"),
    ),
    "split file gone": (lambda r: (r / SPLIT).unlink(), "broken", SPLIT, "the split file is missing"),
    "camera": (
        lambda r: change_text(r / "camera.json", '"fx": 73.0', '"fx": -73.0'),
        *("broken", "camera.json", "fx: Input should be greater than 0"),
    ),
    "subject info": (
        lambda r: change_text(r / "Subjects_info/Subject_2_info.txt", f"1     {FRAMES}", f"1     {FRAMES + 1}"),
        *("suspicious", "Subjects_info/Subject_2_info.txt:8", f"has {FRAMES + 1} frames here and {FRAMES} skeleton"),
    ),
    "empty outside the split": (
        lambda r: (
            tree.skeleton_path(r, "Subject_2/wave/9").parent.mkdir(),
            tree.skeleton_path(r, "Subject_2/wave/9").touch(),
        ),
        *("suspicious", "Subject_2/wave/9", "empty skeleton, not in the split"),
    ),
}
# the ones of `FAULTS` whose place depends on the key's own line or entry
LINE_OF_KEY = {"missing skeleton", "malformed split line", "duplicate", "class conflict"}


def test_a_clean_root_is_clean(clean: Path) -> None:
    report = verify(clean)
    assert report.findings == []
    assert report.exit_code == 0
    assert report.counts["sequences"] == len(LISTED)
    assert report.counts["frames"] == sum(video.frames for video in LISTED)
    assert (report.counts["train"], report.counts["test"], report.counts["subjects"]) == (18, 6, 3)
    assert report.to_text().endswith("clean: 0 broken, 0 suspicious")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(root: Path, fault: str) -> None:
    plant, level, where, message = FAULTS[fault]
    if fault in LINE_OF_KEY:
        line = (root / SPLIT).read_text().splitlines().index(f"{KEY} 1") + 1
        where = f"{SPLIT}:{line}"
    plant(root)
    report = verify(root)
    found = [(finding.level, finding.where) for finding in report.findings if message in finding.message]
    assert found == [(level, where)], report.to_text()
    assert report.exit_code == {"suspicious": 1, "broken": 2}[level]
    assert f"  {where}: " in report.to_text()


def test_all_faults_are_found_together(root: Path) -> None:
    keys = [video.key for video in LISTED if video.split == "train"]
    planted = {
        keys[0]: ("frozen: ", lambda key: change_pose(root, frozen, key)),
        keys[3]: ("jump: ", lambda key: change_pose(root, jumping, key)),
        keys[5]: ("impossible bone: ", lambda key: change_pose(root, long_bone, key)),
        keys[7]: ("joints behind the camera", lambda key: change_pose(root, behind_camera, key)),
        keys[9]: ("all joints outside", lambda key: change_pose(root, beside_image, key)),
        keys[11]: ("no frames; expected", lambda key: shutil.rmtree(tree.frame_path(root, key, 0).parent)),
        keys[13]: ("is absent", lambda key: tree.frame_path(root, key, 0).unlink()),
    }
    for key, (_, plant) in planted.items():
        plant(key)
    tree.skeleton_path(root, keys[15]).unlink()
    tree.skeleton_path(root, keys[16]).write_text("a b c\n0 1 2\n")
    tree.frame_path(root, keys[17], 1).write_bytes(b"\xff\xd8\xff")
    change_text(root / SPLIT, "Test 6", "Test 9")
    (root / "camera.json").write_text((root / "camera.json").read_text().replace("tiny", "dozen"))
    report = verify(root)
    for key, (message, _) in planted.items():
        assert any(f.where == key and message in f.message for f in report.findings), (key, report.to_text())
    text = report.to_text()
    assert f"{keys[15]} is missing" in text
    assert f"{tree.ANNOTATIONS}/{keys[16]}/skeleton.txt:1: 3 columns" in text
    assert f"{tree.ANNOTATIONS}/{keys[16]}/skeleton.txt:2: 3 columns" in text
    assert f"Video_files/{keys[17]}/color/color_0001.jpeg: truncated JPEG" in text
    assert "the header announces 9 Test sequences, 6 follow" in text
    assert report.exit_code == 2


def test_annotations_without_frames_are_checked_and_clean(tmp_path: Path) -> None:
    report = verify(tree.write_root(tmp_path, LISTED, frames=False))
    assert [(f.level, f.message) for f in report.findings] == [("note", "no frames; the pictures were not checked")]
    assert report.exit_code == 0


def test_stray_items_and_sequences_outside_the_split_are_notes(root: Path) -> None:
    (root / "Video_files_480").mkdir()
    (root / "Video_files" / ".DS_Store").touch()
    (root / tree.ANNOTATIONS / "Subject_1" / ".DS_Store").touch()
    tree.write_skeleton(root, tree.Video("Subject_1/wave/8", 1, "train"))
    report = verify(root)
    assert report.exit_code == 0
    text = report.to_text()
    stray = f"3 stray items, ignored: Video_files_480, {tree.ANNOTATIONS}/Subject_1/.DS_Store, Video_files/.DS_Store"
    assert stray in text
    assert "1 sequences are not in the split: Subject_1/wave/8" in text


def test_fpha_is_held_against_the_published_counts_and_its_known_faults_are_named(tmp_path: Path) -> None:
    key = "Subject_4/read_letter/3"
    listed = [tree.Video(key, FPHA_GESTURES.index("read_letter"), "test"), tree.Video("Subject_4/prick/1", 5, "train")]
    root = tree.write_root(tmp_path, listed, frames=False, camera=None)
    change_pose(root, frozen, key)
    empty = tree.skeleton_path(root, "Subject_2/close_milk/4")
    empty.parent.mkdir(parents=True)
    empty.touch()
    text = verify(root).to_text()
    assert re.search(r"sequences +2 +published +1,175 ✗", text)
    assert re.search(r"frames +\d+ +published +105,459 ✗", text)
    assert re.search(r"Subject_4/read_letter/3: frozen: 100% .* known for: every row identical", text)
    assert re.search(r"Subject_2/close_milk/4: empty skeleton, .* known for: empty outside the split", text)


def test_a_whole_subject_in_metres_is_named(root: Path) -> None:
    for video in LISTED:
        if video.key.startswith("Subject_2/"):
            change_pose(root, in_metres, video.key)
    found = [f for f in verify(root).findings if f.where == "Subject_2"]
    assert len(found) == 1
    assert "Are the skeletons in mm?" in found[0].message


def test_a_hand_that_leaves_the_image_for_a_frame_is_a_note_and_counted(root: Path) -> None:
    def leaving(pose: np.ndarray) -> np.ndarray:
        pose[-3:, :, 0] += np.array([150.0, 300.0, 450.0])[:, None]
        return pose

    change_pose(root, leaving)
    report = verify(root)
    message = f"all joints outside the image in 1 of {FRAMES} frames"
    assert [(f.level, f.where, f.message) for f in report.findings] == [("note", KEY, message)]
    assert (report.counts["frames, part outside"], report.counts["frames, all outside"]) == (2, 1)
    assert report.exit_code == 0


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        verify(tmp_path / "nowhere")


def test_jpeg_markers_agree_with_the_decoder(tmp_path: Path) -> None:
    for width, height in ((97, 61), (33, 7), (640, 360)):
        path = tmp_path / f"{width}.jpeg"
        tree.write_frame(path, width, height)
        assert inspect_jpeg(path) == ("", (width, height))
        assert cv2.imread(str(path)).shape[:2] == (height, width)
        content = path.read_bytes()
        path.write_bytes(content + b"\0" * 9)
        assert inspect_jpeg(path) == ("", (width, height))
        for length in (1, 2, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            assert inspect_jpeg(path)[0] != ""


def test_the_contact_sheet_shows_the_skeletons_over_the_frames(root: Path, tmp_path: Path) -> None:
    change_pose(root, frozen)
    report = verify_root(root, sheet=tmp_path / "new" / "sheet.png", progress=False)
    sheet = cv2.imread(str(tmp_path / "new" / "sheet.png"))
    assert sheet.shape == (4 * 278, 6 * 256, 3)
    tiles = [sheet[r * 278 : r * 278 + 256, c * 256 : c * 256 + 256] for r in range(4) for c in range(6)]
    for tile in tiles:  # every finger's colour is in every tile
        for colour in ((0, 159, 230), (233, 180, 86), (115, 158, 0), (66, 228, 240), (167, 121, 204)):
            assert (tile == colour).all(axis=-1).sum() > 20
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]
    assert "contact sheet: " in report.to_text()
    with pytest.raises(InputError, match=r"Use \.png or \.jpg"):
        verify_root(root, sheet=tmp_path / "sheet.pdf", progress=False)


def test_the_contact_sheet_works_without_frames_and_on_a_hand_behind_the_camera(tmp_path: Path) -> None:
    root = tree.write_root(tmp_path / "root", LISTED[:3], frames=False)
    change_pose(root, lambda pose: pose - [0, 0, 900.0], LISTED[0].key)
    verify_root(root, sheet=tmp_path / "sheet.jpg", progress=False)
    assert cv2.imread(str(tmp_path / "sheet.jpg")).shape == (278, 6 * 256, 3)
