"""From predictions to a report: numbers worked out by hand, baselines from the training split alone, stable files."""

from __future__ import annotations

import csv
import json
import zipfile
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest

from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError
from gesturepose.evaluation import (
    CONVENTIONS,
    baseline_poses,
    evaluate_predictions,
    load_predictions,
    nearest_rows,
    save_predictions,
    thumbnails,
    write_evaluation,
)
from gesturepose.geometry import Camera
from gesturepose.params import EvaluateSettings
from gesturepose.structures import Predictions

GESTURES = ("open", "close", "pour", "wave", "knock")
# key, gesture, split, frames; no test video shows class 1 or 4
VIDEOS = (
    ("Subject_1/open/1", 0, "train", 5),
    ("Subject_1/pour/1", 2, "test", 3),
    ("Subject_2/close/1", 1, "train", 7),
    ("Subject_2/open/2", 0, "test", 4),
    ("Subject_2/wave/1", 3, "validation", 2),
    ("Subject_3/wave/2", 3, "test", 6),
    ("Subject_3/open/3", 0, "test", 2),
)
SETTINGS = EvaluateSettings(clips_per_batch=2, bootstrap=137, confidence=0.95)


def prepared(folder: Path, **changed: np.ndarray) -> PreparedData:
    rng = np.random.default_rng(0)
    frames = sum(video[3] for video in VIDEOS)
    arrays = {
        "frames": rng.integers(256, size=(frames, 32, 32, 3), dtype=np.uint8),
        "boxes": np.tile(np.array([10.0, 20.0, 64.0], dtype=np.float32), (frames, 1)),
        "readable": np.ones(frames, dtype=np.bool_),
        "joints_cam_mm": rng.normal([0.0, 0.0, 400.0], 60.0, size=(frames, 21, 3)).astype(np.float32),
        "joints_uv_px": rng.uniform(10.0, 70.0, size=(frames, 21, 2)).astype(np.float32),
    } | changed
    starts = np.cumsum([0, *(video[3] for video in VIDEOS)])
    index = {
        "name": "synthetic",
        "protocol": "official",
        "camera": asdict(Camera(fx=100.0, fy=101.0, cx=31.0, cy=33.0, width=80, height=90)),
        "image_size": 32,
        "crop": "clip",
        "gestures": GESTURES,
        "fingerprint": "0" * 64,
        "videos": [
            {"key": key, "subject": int(key[8]), "gesture": gesture, "split": split, "start": start, "frames": count}
            for (key, gesture, split, count), start in zip(VIDEOS, starts[:-1].tolist(), strict=True)
        ],
        "missing": [],
        "excluded": [],
    }
    folder.mkdir()
    (folder / "index.json").write_text(json.dumps(index))
    for name in ("frames", "boxes", "readable"):
        np.save(folder / f"{name}.npy", arrays[name])
    np.savez(folder / "poses.npz", **{name: arrays[name] for name in ("joints_cam_mm", "joints_uv_px")})
    return PreparedData.open(folder)


def perfect(data: PreparedData, split: str = "test") -> Predictions:
    """Predictions that equal the labels, with the frames in an order that is nobody's natural one."""
    videos = data.split(split)  # type: ignore[arg-type]
    video_of_frame = np.repeat(np.arange(len(videos)), [video.frames for video in videos])
    frame = np.concatenate([np.arange(video.frames) for video in videos])
    order = np.random.default_rng(1).permutation(len(frame))
    video_of_frame, frame = video_of_frame[order], frame[order]
    rows = np.array([video.start for video in videos])[video_of_frame] + frame
    gesture = np.array([video.gesture for video in videos])
    return Predictions(
        video_of_frame=video_of_frame,
        frame=frame,
        frame_valid=data.readable[rows],
        uv_px=data.joints_uv_px[rows],
        joints_cam_mm=data.joints_cam_mm[rows],
        true_uv_px=data.joints_uv_px[rows],
        true_joints_cam_mm=data.joints_cam_mm[rows],
        keys=np.array([video.key for video in videos]),
        subject=np.array([video.subject for video in videos]),
        gesture=gesture,
        logits=np.eye(len(GESTURES), dtype=np.float32)[gesture],
    )


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    return prepared(tmp_path / "prepared")


def test_perfect_predictions_score_perfectly_with_intervals_of_no_width(data: PreparedData) -> None:
    metrics = evaluate_predictions(perfect(data), data, SETTINGS).metrics
    for alignment in ("root_aligned", "camera"):
        for joints in ("joints21", "joints20"):
            scores = metrics["pose"][alignment][joints]
            errors = {scores.pop(f"mean_error_mm{end}") for end in ("", "_low", "_high")}
            assert errors == {0.0} and set(scores.values()) == {1.0}
            assert scores.keys() == {
                f"{n}{e}" for n in ("pck_20", "pck_25", "pck_30", "auc") for e in ("", "_low", "_high")
            }
    assert metrics["pose"]["error_2d_px"] == 0.0
    assert metrics["gesture"]["accuracy"] == metrics["gesture"]["macro_accuracy_low"] == 1.0
    assert metrics["gesture"]["chance"] == 0.2
    assert metrics["data"] == {
        "name": "synthetic",
        "protocol": "official",
        "videos": 4,
        "unreadable_videos": 0,
        "frames": 15,
        "unreadable_frames": 0,
        "joints": 15 * 21,
        "classes_without_videos": 2,
    }


def test_pose_numbers_of_known_displacements(data: PreparedData) -> None:
    predictions = perfect(data)
    moved = predictions.joints_cam_mm.copy()
    moved += np.float32([0.0, 35.0, 0.0])  # the whole hand: camera space alone sees it
    moved[:, 1:] += np.float32([22.0, 0.0, 0.0])  # all but the wrist
    uv = predictions.uv_px + np.float32([3.0, 4.0])
    pose = evaluate_predictions(replace(predictions, joints_cam_mm=moved, uv_px=uv), data, SETTINGS).metrics["pose"]
    root21, root20 = pose["root_aligned"]["joints21"], pose["root_aligned"]["joints20"]
    assert (root21["pck_20"], root21["pck_25"], root21["pck_30"]) == (pytest.approx(1 / 21, abs=1e-6), 1.0, 1.0)
    assert (root20["pck_20"], root20["pck_25"], root20["pck_30"]) == (0.0, 1.0, 1.0)
    assert root21["mean_error_mm"] == pytest.approx(22 * 20 / 21, abs=1e-4)
    # the curve jumps from 0 at 20.0 mm to 1 at 22.5 mm; 12 of 20 intervals lie above, and half of the one it jumps in
    assert root20["auc"] == pytest.approx((50 - 22.5 + 1.25) / 50)
    camera20 = pose["camera"]["joints20"]
    assert camera20["pck_30"] == 0.0
    assert camera20["mean_error_mm"] == pytest.approx(np.hypot(35.0, 22.0), abs=1e-4)
    assert camera20["auc"] == pytest.approx((80 - 42.5 + 1.25) / 80)  # 41.34 mm
    assert pose["camera"]["joints21"]["mean_error_mm"] == pytest.approx((35 + 20 * np.hypot(35.0, 22.0)) / 21, abs=1e-4)
    assert pose["error_2d_px"] == pytest.approx(5.0, abs=1e-4)


def test_unreadable_frames_and_missing_labels_do_not_count_even_as_nan(tmp_path: Path) -> None:
    data = prepared(tmp_path / "prepared")
    whole = perfect(data)
    broken = (whole.video_of_frame == 0) | ((whole.video_of_frame == 2) & (whole.frame == 4))  # 3 + 1 frames
    moved = whole.joints_cam_mm.copy()
    moved[:, 2:] += 10.0
    moved[broken] = np.nan
    labels = whole.true_joints_cam_mm.copy()
    unlabelled = (whole.video_of_frame == 1) & (whole.frame == 2)
    labels[unlabelled, 1] = np.nan  # a joint that is predicted without an error
    logits = whole.logits.copy()
    logits[0] = np.nan
    predictions = replace(
        whole, frame_valid=~broken, joints_cam_mm=moved, true_joints_cam_mm=labels, logits=logits,
        uv_px=np.where(broken[:, None, None], np.nan, whole.uv_px).astype(np.float32),
    )  # fmt: skip
    evaluation = evaluate_predictions(predictions, data, SETTINGS)
    counted = 11 * 21 - 1
    assert evaluation.metrics["data"]["joints"] == counted
    assert evaluation.metrics["data"]["frames"] == 15
    assert evaluation.metrics["data"]["unreadable_frames"] == 4
    assert evaluation.metrics["data"]["unreadable_videos"] == 1
    error = evaluation.metrics["pose"]["root_aligned"]["joints21"]["mean_error_mm"]
    assert error == pytest.approx(np.sqrt(300) * 11 * 19 / counted, abs=1e-3)
    assert evaluation.metrics["gesture"]["accuracy"] == 1.0
    assert len(evaluation.confusion) == 3
    assert list(evaluation.per_video["frames"]) == [0, 4, 5, 2]
    assert evaluation.per_video["mean_error_mm"].isna().tolist() == [True, False, False, False]


def test_a_joint_behind_the_camera_has_no_2d_error_but_a_3d_one(tmp_path: Path) -> None:
    joints = np.random.default_rng(3).normal([0.0, 0.0, 400.0], 60.0, size=(29, 21, 3)).astype(np.float32)
    joints[:, 7, 2] = -50.0
    data = prepared(tmp_path / "prepared", joints_cam_mm=joints)
    predictions = perfect(data)
    uv = predictions.uv_px.copy()
    uv[:, 7] += 1000.0
    metrics = evaluate_predictions(replace(predictions, uv_px=uv), data, SETTINGS).metrics
    assert metrics["pose"]["error_2d_px"] == 0.0
    assert metrics["data"]["joints"] == 15 * 21


def test_accuracies_and_tables_of_a_known_confusion(data: PreparedData) -> None:
    # true classes by video: 2, 0, 3, 0; both mistakes below are in class 0 and class 3
    logits = np.eye(5, dtype=np.float32)[[2, 4, 0, 0]]
    evaluation = evaluate_predictions(replace(perfect(data), logits=logits), data, SETTINGS)
    assert evaluation.metrics["gesture"]["accuracy"] == 0.5
    assert evaluation.metrics["gesture"]["macro_accuracy"] == 0.5  # (1/2 + 1 + 0) / 3: classes 1 and 4 are absent
    assert evaluation.metrics["gesture"]["accuracy_low"] < 0.5 < evaluation.metrics["gesture"]["accuracy_high"]
    assert list(evaluation.confusion["actual"]) == ["pour", "open", "wave", "open"]
    assert list(evaluation.confusion["predicted"]) == ["pour", "knock", "open", "open"]
    np.testing.assert_array_equal(evaluation.confusion_matrix[:, 4], [1, 0, 0, 0, 0])
    assert list(evaluation.per_class["videos"]) == [2, 0, 1, 1, 0]
    np.testing.assert_array_equal(evaluation.per_class["accuracy"], [0.5, np.nan, 1.0, 0.0, np.nan])
    assert list(evaluation.per_video["correct"]) == [1, 0, 0, 1]


def test_the_curve_has_every_source_and_agrees_with_the_metrics(data: PreparedData) -> None:
    evaluation = evaluate_predictions(perfect(data), data, SETTINGS)
    curve = evaluation.pck_curve
    assert curve.groupby(["alignment", "joints", "source"]).size().to_dict() == {
        ("camera", "joints20", "network"): 33,
        ("camera", "joints21", "network"): 33,
    } | {
        ("root_aligned", joints, source): 21
        for joints in ("joints20", "joints21")
        for source in ("network", "mean_pose", "nearest_frame")
    }
    for source, scores in evaluation.metrics["pose"]["baselines"].items():
        chosen = curve.query(f"alignment == 'root_aligned' and joints == 'joints21' and source == '{source}'")
        assert chosen.query("threshold_mm == 30")["pck"].item() == scores["pck_30"]
        assert 0.0 < scores["pck_20"] < scores["pck_30"] < 1.0


def test_baselines_use_the_training_split_alone(tmp_path: Path) -> None:
    data = prepared(tmp_path / "prepared")
    training = np.concatenate([np.arange(v.start, v.start + v.frames) for v in data.split("train")])
    rows = np.array([6, 13, 20])
    root = data.joints_cam_mm.astype(np.float64) - data.joints_cam_mm[:, :1]
    poses = baseline_poses(data, rows, np.array([True, False, True]))
    np.testing.assert_allclose(poses["mean_pose"], np.tile(root[training].mean(axis=0), (3, 1, 1)), atol=1e-3)
    assert np.isnan(poses["nearest_frame"][1]).all()
    # Everything outside the training split may be otherwise, and the baselines stay.
    other = np.setdiff1d(np.arange(29), training)
    joints = data.joints_cam_mm.copy()
    joints[other] += 1000.0
    changed = baseline_poses(prepared(tmp_path / "changed", joints_cam_mm=joints), rows, np.array([True, False, True]))
    for name, pose in poses.items():
        np.testing.assert_array_equal(changed[name], pose)


def test_the_nearest_frame_of_a_training_frame_is_itself_unless_it_cannot_be_read(tmp_path: Path) -> None:
    data = prepared(tmp_path / "prepared")
    training = np.concatenate([np.arange(v.start, v.start + v.frames) for v in data.split("train")])
    root = data.joints_cam_mm.astype(np.float64) - data.joints_cam_mm[:, :1]
    nearest = baseline_poses(data, training, np.full(12, True))["nearest_frame"]
    np.testing.assert_allclose(nearest, root[training], atol=1e-3)
    readable = np.full(29, True)
    readable[training[4]] = False
    nearest = baseline_poses(prepared(tmp_path / "b", readable=readable), training, np.full(12, True))["nearest_frame"]
    assert not np.allclose(nearest[4], root[training[4]], atol=1.0)
    np.testing.assert_allclose(nearest[5], root[training[5]], atol=1e-3)


def test_thumbnails_are_grey_means_over_squares() -> None:
    frames = np.random.default_rng(4).integers(256, size=(5, 48, 48, 3), dtype=np.uint8)
    rows = np.array([3, 0, 3])
    grey = frames[rows] @ np.array([0.299, 0.587, 0.114])
    expected = grey.reshape(3, 16, 3, 16, 3).mean(axis=(2, 4)).reshape(3, 256)
    np.testing.assert_allclose(thumbnails(frames, rows), expected, rtol=1e-5)


def test_nearest_rows_equal_the_plain_search_even_among_near_copies() -> None:
    rng = np.random.default_rng(5)
    candidates = (200.0 + rng.normal(scale=1e-3, size=(311, 7))).astype(np.float32)
    queries = (200.0 + rng.normal(scale=1e-3, size=(523, 7))).astype(np.float32)
    distances = ((queries[:, None].astype(np.float64) - candidates) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(nearest_rows(queries, candidates), distances.argmin(axis=1))


def test_files_read_back_and_two_writes_are_the_same_bytes(data: PreparedData, tmp_path: Path) -> None:
    predictions = perfect(data)
    first, second = tmp_path / "reports" / "first", tmp_path / "second"
    for folder in (first, second):
        write_evaluation(evaluate_predictions(predictions, data, SETTINGS), folder)
        save_predictions(predictions, folder / "predictions.npz")
    names = sorted(path.name for path in first.iterdir())
    assert names == [
        "confusion.csv", "metrics.json", "pck_curve.csv", "per_class.csv", "per_video.csv", "predictions.npz"
    ]  # fmt: skip
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    # Equal bytes within one test could be luck: the archive's dates have to be a constant as well.
    with zipfile.ZipFile(first / "predictions.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    loaded = load_predictions(first / "predictions.npz")
    for field in fields(Predictions):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(predictions, field.name))
    assert json.loads((first / "metrics.json").read_text()) == evaluate_predictions(loaded, data, SETTINGS).metrics
    with (first / "per_class.csv").open() as stream:
        assert list(csv.DictReader(stream))[1] == {"gesture": "close", "videos": "0", "correct": "0", "accuracy": ""}


def test_the_folder_is_replaced_as_a_whole_or_not_at_all(data: PreparedData, tmp_path: Path) -> None:
    predictions, folder = perfect(data), tmp_path / "evaluate"
    evaluation = evaluate_predictions(predictions, data, SETTINGS)
    folder.mkdir()
    (folder / "stale.txt").write_text("of an earlier run")
    with pytest.raises(ValueError, match="JSON"):
        write_evaluation(replace(evaluation, metrics={"nan": float("nan")}), folder)
    assert [path.name for path in folder.iterdir()] == ["stale.txt"]
    write_evaluation(evaluation, folder)
    assert not (folder / "stale.txt").exists() and (folder / "metrics.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluate", "prepared"]


def test_every_convention_belongs_to_a_metric(data: PreparedData) -> None:
    metrics = evaluate_predictions(perfect(data), data, SETTINGS).metrics
    pose = metrics["pose"]
    known = metrics | {"pose": pose | pose["camera"]}
    for key in CONVENTIONS.keys() - {"intervals"}:
        node = known
        for part in key.split("."):
            node = node[part]


def test_predictions_that_are_not_finite_are_refused(data: PreparedData) -> None:
    joints = perfect(data).joints_cam_mm.copy()
    joints[1, 5, 2] = np.nan
    with pytest.raises(InputError, match=r"joints are not all finite: 1 of 945 values[\s\S]*diverged"):
        evaluate_predictions(replace(perfect(data), joints_cam_mm=joints), data, SETTINGS)


def test_predictions_of_other_data_are_refused(data: PreparedData) -> None:
    predictions = perfect(data)
    with pytest.raises(InputError, match="no video Subject_9/open/1"):
        keys = np.array(["Subject_9/open/1", *predictions.keys[1:]])
        evaluate_predictions(replace(predictions, keys=keys), data, SETTINGS)
    with pytest.raises(InputError, match="have 3 classes, the prepared data 5"):
        evaluate_predictions(replace(predictions, logits=predictions.logits[:, :3]), data, SETTINGS)
    with pytest.raises(InputError, match="each frame of each of their videos once"):
        frame = predictions.frame.copy()
        frame[0] = frame[0] + 1 if frame[0] == 0 else 0
        evaluate_predictions(replace(predictions, frame=frame), data, SETTINGS)


def test_nothing_to_score_or_to_learn_from_is_refused(tmp_path: Path) -> None:
    data = prepared(tmp_path / "prepared")
    predictions = perfect(data)
    with pytest.raises(InputError, match="no frame to score"):
        evaluate_predictions(replace(predictions, frame_valid=np.zeros(15, dtype=np.bool_)), data, SETTINGS)
    readable = np.ones(29, dtype=np.bool_)
    for video in data.split("train"):
        readable[video.start : video.start + video.frames] = False
    with pytest.raises(InputError, match="no baselines"):
        evaluate_predictions(predictions, prepared(tmp_path / "untrained", readable=readable), SETTINGS)


@pytest.mark.parametrize("content", [b"", b"not an archive", None])
def test_a_file_without_predictions_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "predictions.npz"
    if content is None:
        np.savez_compressed(path, logits=np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"predictions\.npz: not an archive of predictions"):
        load_predictions(path)
    with pytest.raises(InputError, match=r"absent\.npz: no such file"):
        load_predictions(tmp_path / "absent.npz")
