from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import fpha_tree as tree
from gesturepose.data.fpha import (
    COMMUNITY_EXCLUDED,
    FPHA_GESTURES,
    Sequence,
    carve_validation,
    open_root,
    read_camera,
    read_skeleton,
    read_split,
)
from gesturepose.errors import InputError
from gesturepose.geometry import FPHA_CAMERA
from gesturepose.skeleton import FROM_FPHA

SPLIT = "data_split_action_recognition.txt"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tree.write_root(tmp_path / "root", tree.videos())


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# Opening


def test_every_listed_sequence_is_read_with_its_side_and_class(root: Path) -> None:
    opened = open_root(root, validation=0)
    listed = tree.videos()
    ordered = [v for v in listed if v.split == "train"] + [v for v in listed if v.split == "test"]
    assert [(s.key, s.gesture, s.split) for s in opened.sequences] == [(v.key, v.gesture, v.split) for v in ordered]
    assert (opened.name, opened.gestures, opened.missing) == ("tiny", ("open_box", "wave"), ())
    for sequence, video in zip(opened.sequences, ordered, strict=True):
        assert opened.read_joints_world_mm(sequence).shape == (video.frames, 21, 3)
        assert opened.frame_path(sequence, video.frames - 1).is_file()
        assert not opened.frame_path(sequence, video.frames).exists()


def test_joints_come_in_the_order_of_the_project(tmp_path: Path) -> None:
    values = np.random.default_rng(3).uniform(-200, 600, (5, 21, 3)).round(4)
    path = tmp_path / "skeleton.txt"
    path.write_text(tree.skeleton_text(values))
    np.testing.assert_array_equal(read_skeleton(path), values)
    in_file_order = np.array([line.split()[1:] for line in path.read_text().splitlines()], float).reshape(-1, 21, 3)
    np.testing.assert_array_equal(read_skeleton(path), in_file_order[:, list(FROM_FPHA)])


def test_fpha_without_a_camera_file_has_its_calibration_and_45_classes(tmp_path: Path) -> None:
    listed = [tree.Video("Subject_1/give_card/2", 40, "train"), tree.Video("Subject_2/give_card/1", 40, "test")]
    opened = open_root(tree.write_root(tmp_path, listed, camera=None))
    assert (opened.name, opened.camera, opened.gestures) == ("FPHA", FPHA_CAMERA, FPHA_GESTURES)
    assert len(FPHA_GESTURES) == len(set(FPHA_GESTURES)) == 45
    assert FPHA_GESTURES[29] == "take_letter_from_enveloppe"


@pytest.mark.parametrize("folder", ["Hand_pose_annotation_v1", "Hand_pose_annotation_v1_1"])
def test_the_annotation_folder_that_has_data_is_taken(tmp_path: Path, folder: str) -> None:
    root = tree.write_root(tmp_path, tree.videos(), folder=folder)
    for other in {"Hand_pose_annotation_v1", "Hand_pose_annotation_v1_1"} - {folder}:
        empty = root / other / "Subject_1" / "wave" / "1" / "skeleton.txt"
        empty.parent.mkdir(parents=True)
        empty.touch()
    opened = open_root(root)
    assert opened.annotation_folder == folder
    assert f"annotations in {folder}" in opened.summary().splitlines()[0]


def test_stray_files_do_not_matter(root: Path) -> None:
    before = open_root(root)
    (root / ".DS_Store").write_bytes(b"x")
    (root / "Video_files_480").mkdir()
    (root / tree.ANNOTATIONS / "Subject_1" / ".DS_Store").write_bytes(b"x")
    (root / tree.ANNOTATIONS / "Subject_1" / "wave" / "notes").mkdir()
    tree.write_frame(tree.frame_path(root, "Subject_1/wave/1", 0).with_name("._color_0000.jpeg"))
    tree.write_frame(tree.frame_path(root, "Subject_1/wave/1", 0).with_name("color_0000_small.jpeg"))
    assert open_root(root) == before


def test_empty_skeletons_outside_the_split_are_ignored_and_said(root: Path) -> None:
    path = tree.skeleton_path(root, "Subject_2/wave/9")
    path.parent.mkdir()
    path.touch()
    opened = open_root(root)
    assert opened.empty_outside_split == ("Subject_2/wave/9",)
    assert "1 empty skeletons outside the split, ignored: Subject_2/wave/9" in opened.summary()
    assert len(opened.sequences) == len(tree.videos())


# Layout


def test_a_root_that_is_not_there_or_not_in_the_layout_is_refused_with_the_expected_path(tmp_path: Path) -> None:
    assert "no such folder" in refusal(open_root, tmp_path / "nowhere")
    file = tmp_path / "file"
    file.touch()
    assert "not a folder" in refusal(open_root, file)
    empty = tmp_path / "empty"
    empty.mkdir()
    message = refusal(open_root, empty)
    assert message.startswith(f"{empty / SPLIT}: ")
    assert "on request" in message
    assert f"{empty}/Video_files/Subject_1/<action>/<take>/color/color_0000.jpeg" in message
    (empty / SPLIT).write_text("Training 0\nTest 0\n")
    assert refusal(open_root, empty).startswith(f"{empty / 'Hand_pose_annotation_v1'}: ")
    (empty / "Hand_pose_annotation_v1").mkdir()
    assert refusal(open_root, empty).startswith(f"{empty / 'Video_files'}: ")
    assert "none of the 0 sequences" in refusal(open_root, empty, need_frames=False)


# Skeletons


@pytest.mark.parametrize(
    ("spoiled", "line", "said"),
    [
        (lambda rows: [*rows[:2], rows[2].rsplit(" ", 1)[0], *rows[3:]], 3, "63 columns; expected 64"),
        (lambda rows: [*rows[:2], rows[2] + " 5", *rows[3:]], 3, "65 columns; expected 64"),
        (lambda rows: [*rows[:1], rows[1].rsplit(" ", 1)[0], "9 " + rows[2], *rows[3:]], 2, "63 columns"),
        (lambda rows: [*rows[:1], rows[1].rsplit(" ", 1)[0] + " NaN", *rows[2:]], 2, "column 64 is 'NaN'"),
        (lambda rows: [*rows[:1], rows[1].rsplit(" ", 1)[0] + " inf", *rows[2:]], 2, "column 64 is 'inf'"),
        (lambda rows: [*rows[:1], rows[1].rsplit(" ", 1)[0] + " 1_0", *rows[2:]], 2, "column 64 is '1_0'"),
        (lambda rows: [*rows[:1], rows[1].replace(" ", "\u00a0"), *rows[2:]], 2, "1 columns"),
        (lambda rows: ["version https://example.org/spec/v1"], 1, "2 columns"),
        (lambda rows: [*rows[:3], "0 " + "x " * 63], 4, "column 2 is 'x'"),
        (lambda rows: [*rows[:4], "", *rows[4:]], 5, "blank row"),
        (lambda rows: [*rows[:1], *rows[2:]], 2, "frame number 2; expected 1"),
        (lambda rows: rows[1:], 1, "frame number 1; expected 0"),
        (lambda rows: [], None, "the skeleton is empty"),
        (lambda rows: ["", ""], None, "the skeleton is empty"),
    ],
)
def test_a_bad_skeleton_row_is_named(root: Path, spoiled, line: int | None, said: str) -> None:
    path = tree.skeleton_path(root, "Subject_1/wave/1")
    path.write_text("\n".join(spoiled(path.read_text().splitlines())) + "\n")
    message = refusal(read_skeleton, path)
    assert message.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert said in message


def test_the_opened_root_names_a_bad_row_when_it_comes_to_it(root: Path) -> None:
    path = tree.skeleton_path(root, "Subject_1/wave/1")
    spoil(path, "\n3 ", "\n3 nan")
    opened = open_root(root)
    sequence = next(sequence for sequence in opened.sequences if sequence.key == "Subject_1/wave/1")
    assert refusal(opened.read_joints_world_mm, sequence).startswith(f"{path}:4: column 2 is 'nan")


def test_windows_line_ends_and_a_missing_last_newline_read_the_same(tmp_path: Path) -> None:
    text = tree.skeleton_text(tree.hand_mm(5))
    plain, other = tmp_path / "plain.txt", tmp_path / "other.txt"
    plain.write_text(text)
    other.write_bytes(text.rstrip().replace("\n", "\r\n").encode())
    np.testing.assert_array_equal(read_skeleton(plain), read_skeleton(other))


def test_fewer_rows_than_frames_is_refused_with_both_counts(root: Path) -> None:
    path = tree.skeleton_path(root, "Subject_1/wave/1")
    rows = path.read_text().splitlines()
    path.write_text("\n".join(rows[:-2]) + "\n")
    message = refusal(open_root, root, allow_missing=True)
    assert message.startswith(f"{path}: {len(rows) - 2} rows for {len(rows)} frames")
    assert open_root(root, exclude=["Subject_1/wave/1"]).excluded == ("Subject_1/wave/1",)
    assert len(open_root(root, need_frames=False).sequences) == len(tree.videos())


def test_an_empty_skeleton_in_the_split_is_refused(root: Path) -> None:
    path = tree.skeleton_path(root, "Subject_1/wave/1")
    path.write_text("")
    assert refusal(open_root, root, allow_missing=True, need_frames=False).startswith(f"{path}: the skeleton is empty")


# Split file


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("Subject_1/wave/1 1", "Subject_1/wave/1", 4, "malformed line 'Subject_1/wave/1'"),
        ("Subject_1/wave/1 1", "Subject_1/wave/1 one", 4, "malformed line"),
        ("Subject_1/wave/1 1", "Subject_1/wave/1 1 1", 4, "malformed line"),
        ("Subject_1/wave/1 1", "Subject_1/../1 1", 4, "malformed line"),
        ("Subject_1/wave/1 1", "../Subject_1/wave/1 1", 4, "malformed line"),
        ("Subject_1/wave/1 1", "Subject_1/wave/.. 1", 4, "malformed line"),
        ("Subject_1/wave/1 1", "Subject_01/wave/1 1", 4, "malformed line"),
        ("Training 12", "Training many", 1, "malformed line"),
        ("Training 12", "Training 13", 1, "the header announces 13 Training sequences, 12 follow"),
        ("Test 6", "Test 5", 14, "the header announces 5 Test sequences, 6 follow"),
        ("Test 6", "Training 6", 14, "a second 'Training' header; the first is on line 1"),
        ("Training 12\n", "", 1, "a sequence before any header"),
        ("Subject_1/wave/1 1", "Subject_1/open_box/1 0", 4, "stands twice; the first is on line 2"),
        ("Subject_1/wave/1 1", "Subject_1/wave/1 0", 4, "id 0 is 'wave', on line 2 'open_box'"),
        ("Subject_1/wave/2 1", "Subject_1/wave/2 7", 5, "class 'wave' has id 7, on line 4 1"),
    ],
)
def test_a_bad_split_line_is_named(root: Path, old: str, new: str, line: int, said: str) -> None:
    spoil(root / SPLIT, old, new)
    for read in (open_root, lambda root: read_split(root / SPLIT)):
        message = refusal(read, root)
        assert message.startswith(f"{root / SPLIT}:{line}: ")
        assert said in message


def test_class_ids_must_be_contiguous(tmp_path: Path) -> None:
    listed = [tree.Video("Subject_1/a/1", 0, "train"), tree.Video("Subject_1/b/1", 2, "test")]
    message = refusal(open_root, tree.write_root(tmp_path, listed))
    assert f"{tmp_path / SPLIT}: no class has id 1; the 2 ids in use must be 0 to 1" in message


def test_fpha_refuses_an_unknown_class_with_the_nearest_name_and_a_wrong_id(tmp_path: Path) -> None:
    listed = [
        tree.Video("Subject_1/take_letter_from_envelope/2", 29, "train"),
        tree.Video("Subject_1/prick/1", 6, "test"),
    ]
    tree.write_root(tmp_path, listed, camera=None)
    message = refusal(open_root, tmp_path)
    assert message.startswith(f"{tmp_path / SPLIT}:2: unknown class 'take_letter_from_envelope'")
    assert "'take_letter_from_enveloppe'" in message
    tree.write_root(tmp_path, listed[1:], camera=None)
    assert f"{tmp_path / SPLIT}:3: class 'prick' has id 5, not 6" in refusal(open_root, tmp_path)


# Missing sequences


def test_a_partial_root_is_refused_with_the_list_unless_missing_is_allowed(root: Path) -> None:
    tree.skeleton_path(root, "Subject_1/wave/2").unlink()
    for path in tree.frame_path(root, "Subject_2/wave/1", 0).parent.iterdir():
        path.unlink()
    tree.frame_path(root, "Subject_3/wave/3", 2).unlink()
    message = refusal(open_root, root)
    assert message.startswith(f"{root / SPLIT}:5: 3 of 18 sequences are missing:")
    assert "line 5: Subject_1/wave/2: no skeleton.txt" in message
    assert "Subject_2/wave/1: no frames in Video_files/Subject_2/wave/1/color" in message
    assert "the first absent is color_0002.jpeg" in message
    opened = open_root(root, allow_missing=True)
    assert opened.missing == ("Subject_1/wave/2", "Subject_2/wave/1", "Subject_3/wave/3")
    assert not set(opened.missing) & {sequence.key for sequence in opened.sequences}
    assert len(opened.sequences) == 15
    assert "3 missing: Subject_1/wave/2" in opened.summary()
    assert open_root(root, allow_missing=True, need_frames=False).missing == ("Subject_1/wave/2",)


def test_a_long_list_of_missing_sequences_is_cut(tmp_path: Path) -> None:
    listed = tree.videos(subjects=5, takes=5)
    root = tree.write_root(tmp_path, listed[:1], frames=False)
    tree.write_split(root, listed)
    message = refusal(open_root, root, need_frames=False)
    assert "49 of 50 sequences are missing" in message
    assert message.count("no skeleton.txt") == 20
    assert "and 29 more" in message


# Exclusion


def test_excluded_sequences_are_left_out_and_reported(root: Path) -> None:
    opened = open_root(root, exclude=("Subject_3/wave/2", "Subject_1/open_box/3"))
    assert opened.excluded == ("Subject_1/open_box/3", "Subject_3/wave/2")
    assert not set(opened.excluded) & {sequence.key for sequence in opened.sequences}
    assert "2 excluded on request: Subject_1/open_box/3, Subject_3/wave/2" in opened.summary()
    message = refusal(open_root, root, exclude=("Subject_3/wavee/2",))
    assert "the nearest known is 'Subject_3/wave/2'" in message


def test_the_community_list_has_14_fpha_sequences_and_excludes_those_present(tmp_path: Path) -> None:
    assert len(set(COMMUNITY_EXCLUDED)) == 14
    assert {key.split("/")[1] for key in COMMUNITY_EXCLUDED} <= set(FPHA_GESTURES)
    keys = [*COMMUNITY_EXCLUDED[:3], "Subject_1/prick/1"]
    listed = [tree.Video(key, FPHA_GESTURES.index(key.split("/")[1]), "train") for key in keys]
    opened = open_root(tree.write_root(tmp_path, listed, camera=None), exclude="community")
    assert opened.excluded == tuple(sorted(COMMUNITY_EXCLUDED[:3]))
    assert [sequence.key for sequence in opened.sequences] == ["Subject_1/prick/1"]


# Protocols


def test_leave_one_person_out_tests_on_that_person_alone(root: Path) -> None:
    opened = open_root(root, protocol="leave_one_person_out", held_out_subject=2)
    assert all((s.subject == 2) == (s.split == "test") for s in opened.sequences)
    assert len(opened.sequences) == len(tree.videos())
    message = refusal(open_root, root, protocol="leave_one_person_out", held_out_subject=8)
    assert "testing on 8, but the root has subjects 1, 2, 3" in message


def test_pose_cross_subject_splits_by_subject(tmp_path: Path) -> None:
    root = tree.write_root(tmp_path, tree.videos(subjects=6), frames=False)
    opened = open_root(root, protocol="pose_cross_subject", need_frames=False)
    assert {s.subject for s in opened.sequences if s.split == "test"} == {2, 5, 6}
    assert {s.subject for s in opened.sequences if s.split != "test"} == {1, 3, 4}
    seventh = tree.write_root(tmp_path / "seven", tree.videos(subjects=7), frames=False)
    assert "no side for subject 7" in refusal(open_root, seventh, protocol="pose_cross_subject", need_frames=False)


def test_an_unknown_protocol_or_share_is_refused(root: Path) -> None:
    assert "unknown protocol 'cross'" in refusal(open_root, root, protocol="cross")
    for share in (-0.1, 1.0, float("nan")):
        assert "validation share" in refusal(open_root, root, validation=share)


# Validation


def training(counts: dict[int, int]) -> list[Sequence]:
    return [Sequence(1, f"a{g}", str(take), g, "train") for g, count in counts.items() for take in range(count)]


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [(1 / 7, 14, 2), (0.15, 14, 2), (0.15, 13, 2), (0.15, 3, 1), (0.15, 1, 0), (0.9, 2, 1), (0.99, 14, 13), (0, 14, 0)],
)
def test_the_share_of_a_class_is_rounded_and_leaves_a_training_video(share: float, count: int, expected: int) -> None:
    carved = carve_validation(training({4: count, 9: 5}), share, seed=0)
    assert sum(s.split == "validation" and s.gesture == 4 for s in carved) == expected


def test_validation_comes_from_training_videos_alone_and_depends_on_the_seed_alone(root: Path) -> None:
    opened = open_root(root, validation=1 / 3, split_seed=5)
    plain = open_root(root, validation=0)
    assert [s.key for s in opened.sequences] == [s.key for s in plain.sequences]
    assert {s.key for s in opened.sequences if s.split == "test"} == {
        s.key for s in plain.sequences if s.split == "test"
    }
    assert Counter(s.gesture for s in opened.sequences if s.split == "validation") == {0: 2, 1: 2}
    assert opened == open_root(root, validation=1 / 3, split_seed=5)
    draws = {
        tuple(s.key for s in open_root(root, validation=1 / 3, split_seed=seed).sequences if s.split == "validation")
        for seed in range(5)
    }
    assert len(draws) > 1


def test_losing_one_training_video_changes_at_most_one_choice() -> None:
    whole = training({0: 14})
    chosen = {s.key for s in carve_validation(whole, 0.15, 3) if s.split == "validation"}
    for lost in range(14):
        rest = whole[:lost] + whole[lost + 1 :]
        assert len(chosen - {s.key for s in carve_validation(rest, 0.15, 3) if s.split == "validation"}) <= 1


# Camera


def test_a_camera_file_overrides_calibration_and_size(tmp_path: Path) -> None:
    pose = {"rotation": [[0, -1, 0], [1, 0, 0], [0, 0, 1]], "translation_mm": [1, 2, 3.5]}
    (tmp_path / "camera.json").write_text(json.dumps({**tree.CAMERA, **pose}))
    name, camera = read_camera(tmp_path)
    assert (name, camera.width, camera.height, camera.fy) == ("tiny", 97, 61, 71.0)
    np.testing.assert_allclose(camera.world_to_cam(np.array([1.0, 0, 0])), [1, 3, 3.5])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fx": -1.0}, "fx: "),
        ({"fx": "70"}, "fx: "),
        ({"fx": float("nan")}, "fx: Input should be a finite number\n"),
        ({"width": 0}, "width: "),
        ({"widht": 9}, "nearest known is 'width'"),
        ({"rotation": [[2, 0, 0], [0, 1, 0], [0, 0, 1]]}, "not a rotation matrix"),
        ({"rotation": [[-1, 0, 0], [0, 1, 0], [0, 0, 1]]}, "not a rotation matrix"),
    ],
)
def test_a_bad_camera_value_is_named(tmp_path: Path, change: dict, said: str) -> None:
    path = tmp_path / "camera.json"
    path.write_text(json.dumps({**tree.CAMERA, **change}))
    message = refusal(read_camera, tmp_path)
    assert message.startswith(f"{path}: ")
    assert said in message


def test_a_camera_file_that_is_not_json_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "camera.json").write_text('{"name": "tiny",\n "width": }')
    assert refusal(read_camera, tmp_path).startswith(f"{tmp_path / 'camera.json'}:2: ")
