"""From the predictions of a split to its metrics, tables and files.

Two baselines that see the training split alone stand beside the network: the mean pose, and the pose of the training
frame that looks most alike. Intervals are percentiles of a bootstrap over videos, since the frames of one video are
near copies of each other.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from gesturepose import metrics
from gesturepose.checkpoint import write_atomically
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError
from gesturepose.metrics import Floats, Integers, Mask, PoseSums
from gesturepose.params import EvaluateSettings
from gesturepose.skeleton import WRIST
from gesturepose.structures import SYNTHETIC_NAME, Predictions

HEADLINE_MM: Final = (20.0, 25.0, 30.0)  # Table 2
THRESHOLDS_MM: Final = {"root_aligned": np.linspace(0.0, 50.0, 21), "camera": np.linspace(0.0, 80.0, 33)}
JOINT_SETS: Final = {"joints21": slice(None), "joints20": slice(WRIST + 1, None)}
BOOTSTRAP_SEED: Final = 0
DECIMALS: Final = 6  # of every number in a file: a last bit that differs between two runs does not show
THUMBNAIL: Final = 16  # rows and columns
LUMA: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601

# What the numbers mean, by their key in metrics.json; whoever prints a number prints its line too.
CONVENTIONS: Final = {
    "gesture": "top-1 over videos; a video's score is the mean of its clips' logits; videos without a readable frame "
    "are left out",
    "gesture.macro_accuracy": "mean over the classes that have a test video",
    "gesture.chance": "1 / number of classes",
    "pose": "3D PCK: share of joints with an error of at most the threshold, over every annotated joint of every frame "
    "whose picture could be read, in the crop or not; AUC: trapezoid over the thresholds, divided by their range",
    "pose.root_aligned": "wrist-aligned; AUC over 0–50 mm, 21 thresholds",
    "pose.camera": "camera space, true wrist depth given; AUC over 0–80 mm, 33 thresholds",
    "pose.joints21": "all joints, the wrist included (its root-aligned error is 0)",
    "pose.joints20": "without the wrist",
    "pose.error_2d_px": "mean distance in px of the original image, 21 joints, in front of the camera",
    "pose.baselines": "wrist-aligned, 21 joints, from the training split alone",
    "pose.baselines.mean_pose": "the mean wrist-aligned pose of the training frames",
    "pose.baselines.nearest_frame": "the wrist-aligned pose of the training frame whose 16×16 grey thumbnail of the "
    "crop is nearest",
    "intervals": "`_low` and `_high`: percentiles of a bootstrap over the test videos",
    "data.frames": "all frames of the test videos; `unreadable_frames` of them have no prediction and do not count",
}


@dataclass(frozen=True)
class Evaluation:
    """All that `evaluate` reports of one split; numbers are rounded to `DECIMALS`."""

    metrics: dict[str, Any]  # nested, as in metrics.json
    pck_curve: pd.DataFrame  # alignment, joints, source, threshold_mm, pck
    confusion: pd.DataFrame  # actual, predicted: class names, a row for each video
    confusion_matrix: Integers  # [A, A] numbers of videos, a row for each true class
    per_class: pd.DataFrame  # gesture, videos, correct, accuracy (empty for a class without test videos)
    per_video: pd.DataFrame  # key, gesture, predicted, correct, frames, pck_30_root21, mean_error_mm


def evaluate_predictions(predictions: Predictions, data: PreparedData, settings: EvaluateSettings) -> Evaluation:
    """Score the predictions of one split of `data` and both baselines on the same joints.

    Raises:
        InputError: the predictions are not of this data or not finite, or there is nothing to score.
    """
    rows = _check(predictions, data)
    videos = len(predictions.keys)
    draws = metrics.count_draws(metrics.draw_videos(videos, settings.bootstrap, BOOTSTRAP_SEED))
    joint_valid = predictions.frame_valid[:, None] & np.isfinite(predictions.true_joints_cam_mm).all(axis=-1)
    true_root_mm = metrics.root_aligned(predictions.true_joints_cam_mm)
    errors_mm = {
        ("root_aligned", "network"): metrics.joint_errors(
            metrics.root_aligned(predictions.joints_cam_mm), true_root_mm
        ),
        ("camera", "network"): metrics.joint_errors(predictions.joints_cam_mm, predictions.true_joints_cam_mm),
    }
    for source, poses_mm in baseline_poses(data, rows, predictions.frame_valid).items():
        errors_mm["root_aligned", source] = metrics.joint_errors(poses_mm, true_root_mm)
    sums = {
        (alignment, joints, source): _sums(errors, joint_valid, alignment, joints, predictions)
        for (alignment, source), errors in errors_mm.items()
        for joints in JOINT_SETS
    }

    frames = metrics.sum_by_video(predictions.frame_valid, predictions.video_of_frame, videos)
    video_valid = frames > 0
    predicted = predictions.logits.argmax(axis=1)
    per_class = _per_class(predictions.gesture[video_valid], predicted[video_valid], data.gestures)
    headline = sums["root_aligned", "joints21", "network"]
    names = np.array(data.gestures)
    values = {
        "gesture": _gesture_metrics(predictions.gesture, predicted, video_valid, draws, len(names), settings),
        "pose": {
            alignment: {
                joints: _with_intervals(sums[alignment, joints, "network"], draws, settings.confidence)
                for joints in JOINT_SETS
            }
            for alignment in THRESHOLDS_MM
        }
        | _error_2d(predictions, draws, settings.confidence)
        | {
            "baselines": {
                source: _point(sums["root_aligned", "joints21", source]) for source in ("mean_pose", "nearest_frame")
            }
        },
        "data": {
            "name": data.name,
            "protocol": data.protocol,
            "videos": videos,
            "unreadable_videos": int((~video_valid).sum()),
            "frames": len(rows),
            "unreadable_frames": int((~predictions.frame_valid).sum()),
            "joints": int(joint_valid.sum()),
            "classes_without_videos": int((per_class["videos"] == 0).sum()),
        },
    }
    return Evaluation(
        metrics=rounded(values),
        pck_curve=_curve_rows(sums).round(DECIMALS),
        confusion=pd.DataFrame(
            {"actual": names[predictions.gesture[video_valid]], "predicted": names[predicted[video_valid]]}
        ),
        confusion_matrix=metrics.confusion_matrix(predictions.gesture[video_valid], predicted[video_valid], len(names)),
        per_class=per_class,
        per_video=_per_video(predictions, predicted, frames, headline, names, data.name),
    )


def baseline_poses(data: PreparedData, rows: Integers, row_valid: Mask) -> dict[str, Floats]:
    """The wrist-aligned poses [F, J, 3] in mm that the two baselines give for the frames `rows` [F] of `data`.

    Frames outside `row_valid` [F] have no picture to compare: their nearest pose is NaN.

    Raises:
        InputError: no training frame is both readable and fully annotated.
    """
    training = np.concatenate([np.arange(v.start, v.start + v.frames) for v in data.split("train")] or [np.arange(0)])
    labelled = data.readable[training] & np.isfinite(data.joints_cam_mm[training]).all(axis=(1, 2))
    training = training[labelled]
    if not len(training):
        raise InputError("the training split has no readable frame with a complete pose, so there are no baselines")
    poses_mm = metrics.root_aligned(data.joints_cam_mm[training].astype(np.float64))
    nearest_mm = np.full((len(rows), *poses_mm.shape[1:]), np.nan)
    nearest = nearest_rows(thumbnails(data.frames, rows[row_valid]), thumbnails(data.frames, training))
    nearest_mm[row_valid] = poses_mm[nearest]
    return {"mean_pose": np.broadcast_to(poses_mm.mean(axis=0), nearest_mm.shape), "nearest_frame": nearest_mm}


def thumbnails(frames: NDArray[np.uint8], rows: Integers) -> NDArray[np.float32]:
    """Frames `rows` [M] of `frames` uint8 [F, S, S, 3] → [M, 256] grey values 0–255, means over squares.

    S is a multiple of 16. Read in pieces: `frames` may be a file larger than memory.
    """
    side = frames.shape[1] // THUMBNAIL
    small = np.empty((len(rows), THUMBNAIL**2), dtype=np.float32)
    for piece in _pieces(len(rows), 256, "thumbnails"):
        pictures = frames[rows[piece]]
        # Two sums, the first over whole rows of bytes: a mean over both axes at once takes several times as long.
        bands = pictures.reshape(-1, THUMBNAIL, side, frames.shape[2] * 3).sum(axis=2, dtype=np.uint32)
        squares = bands.reshape(-1, THUMBNAIL, THUMBNAIL, side, 3).sum(axis=3).astype(np.float32) / side**2
        small[piece] = (squares @ LUMA).reshape(-1, THUMBNAIL**2)
    return small


def nearest_rows(queries: Floats, candidates: Floats) -> Integers:
    """[M, D], [K, D] → [M] the candidate with the least Euclidean distance to each query."""
    # |q − c|² = |q|² − 2 (q·c − |c|²/2): the largest bracket is nearest. In float32 the cancellation would choose among
    # near copies by rounding; centring the grey values helps as well.
    centre = candidates.mean(axis=0, dtype=np.float64)
    centred = candidates.astype(np.float64) - centre
    half_squares = 0.5 * (centred**2).sum(axis=1)
    nearest = np.empty(len(queries), dtype=np.int64)
    for piece in _pieces(len(queries), 256, "nearest training frames"):
        closeness = (queries[piece].astype(np.float64) - centre) @ centred.T
        closeness -= half_squares
        nearest[piece] = closeness.argmax(axis=1)
    return nearest


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write metrics.json, pck_curve.csv, confusion.csv, per_class.csv and per_video.csv.

    `folder` is replaced as a whole, once everything is written. The bytes depend on the arguments alone.
    """
    fresh, stale = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        text = json.dumps(evaluation.metrics, indent=2, allow_nan=False, ensure_ascii=False)
        (fresh / "metrics.json").write_text(text + "\n", encoding="utf-8")
        for name in ("pck_curve", "confusion", "per_class", "per_video"):
            getattr(evaluation, name).to_csv(fresh / f"{name}.csv", index=False, lineterminator="\n", encoding="utf-8")
        if folder.exists():
            folder.replace(stale)
        fresh.replace(folder)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=folder, hint="Free some space.") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(stale, ignore_errors=True)


def save_predictions(predictions: Predictions, path: Path) -> None:
    """Write an archive of the arrays; equal arrays make equal files, since NumPy dates every member alike."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{field.name: getattr(predictions, field.name) for field in fields(Predictions)})
    write_atomically(path, buffer.getvalue())


def load_predictions(path: Path) -> Predictions:
    """The counterpart of `save_predictions`.

    Raises:
        InputError: no such file, or not an archive of predictions.
    """
    hint = "The evaluate stage writes it."
    try:
        with np.load(path, allow_pickle=False) as archive:
            return Predictions(**{field.name: archive[field.name] for field in fields(Predictions)})
    except FileNotFoundError:
        raise InputError("no such file", file=path, hint=hint) from None
    except KeyError as error:
        raise InputError(f"not an archive of predictions: {error.args[0]}", file=path, hint=hint) from None
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"not an archive of predictions: {error}", file=path, hint=hint) from None


def shown_key(key: str, dataset: str) -> str:
    """A video's name for files that git keeps. Of a licensed dataset, whose list is not ours to pass on, a hash.

    The same video has the same hash in every table.
    """
    return key if dataset == SYNTHETIC_NAME else hashlib.sha256(key.encode()).hexdigest()[:16]


def _check(predictions: Predictions, data: PreparedData) -> Integers:
    """The rows of `data`'s arrays [F] that the predictions speak of."""
    by_key = {video.key: video for video in data.videos}
    unknown = [str(key) for key in predictions.keys if key not in by_key]
    if unknown:
        raise InputError(f"the prepared data has no video {unknown[0]}", hint="Predict and evaluate on the same data.")
    if predictions.logits.shape[1] != len(data.gestures):
        raise InputError(
            f"the predictions have {predictions.logits.shape[1]} classes, the prepared data {len(data.gestures)}",
            hint="Predict and evaluate on the same data.",
        )
    videos = [by_key[str(key)] for key in predictions.keys]
    start = np.array([video.start for video in videos], dtype=np.int64)
    rows = start[predictions.video_of_frame] + predictions.frame
    expected = np.concatenate([np.arange(v.start, v.start + v.frames) for v in videos] or [np.arange(0)])
    if not np.array_equal(np.sort(rows), np.sort(expected)):
        raise InputError("the predictions do not hold each frame of each of their videos once")
    valid = predictions.frame_valid
    complete = [np.isfinite(true).all(axis=(1, 2)) for true in (predictions.true_joints_cam_mm, predictions.true_uv_px)]
    if not (valid & complete[0] & complete[1]).any():
        raise InputError("no frame to score: none has both a readable picture and a complete pose")
    seen = np.unique(predictions.video_of_frame[valid])
    for name, values in (
        ("joints", predictions.joints_cam_mm[valid]),
        ("image positions", predictions.uv_px[valid]),
        ("logits", predictions.logits[seen]),
    ):
        if not np.isfinite(values).all():
            raise InputError(
                f"the predicted {name} are not all finite: {int((~np.isfinite(values)).sum())} of {values.size} values",
                hint="The training has diverged: lower its learning rate, or take float32.",
            )
    return rows


def _sums(errors_mm: Floats, joint_valid: Mask, alignment: str, joints: str, predictions: Predictions) -> PoseSums:
    chosen = JOINT_SETS[joints]
    counted = joint_valid & np.isfinite(errors_mm)  # root-aligned, a joint without an annotated wrist has no error
    return metrics.pose_sums(
        errors_mm[:, chosen],
        counted[:, chosen],
        THRESHOLDS_MM[alignment],
        predictions.video_of_frame,
        len(predictions.keys),
    )


def _scores(sums: PoseSums) -> dict[str, NDArray[np.float64]]:
    """Each reported number over the leading axes of `sums`."""
    return {f"pck_{threshold:.0f}": metrics.pck(sums, threshold) for threshold in HEADLINE_MM} | {
        "auc": metrics.area_under_curve(sums),
        "mean_error_mm": metrics.mean_error_mm(sums),
    }


def _point(sums: PoseSums) -> dict[str, float]:
    return {name: float(value) for name, value in _scores(metrics.over_all_videos(sums)).items()}


def _with_intervals(sums: PoseSums, draws: Floats, confidence: float) -> dict[str, float]:
    resampled = _scores(metrics.over_resamples(sums, draws))
    return {
        key: number
        for name, value in _point(sums).items()
        for key, number in _interval(name, value, resampled[name], confidence).items()
    }


def _interval(name: str, value: float, resampled: Floats, confidence: float) -> dict[str, float]:
    low, high = metrics.percentile_interval(resampled, confidence)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _gesture_metrics(
    gesture: Integers, predicted: Integers, video_valid: Mask, draws: Floats, classes: int, settings: EvaluateSettings
) -> dict[str, float]:
    videos = np.eye(classes)[gesture] * video_valid[:, None]  # [V, A] one 1 a video, in its true class
    correct = videos * (predicted == gesture)[:, None]
    all_videos, all_correct = videos.sum(axis=0), correct.sum(axis=0)
    drawn_videos, drawn_correct = draws @ videos, draws @ correct  # [R, A]
    micro = metrics.ratio(drawn_correct.sum(axis=1), drawn_videos.sum(axis=1))
    macro = metrics.macro_accuracy(drawn_videos, drawn_correct)
    accuracy = float(all_correct.sum() / all_videos.sum())
    macro_accuracy = float(metrics.macro_accuracy(all_videos, all_correct))
    return {
        **_interval("accuracy", accuracy, micro, settings.confidence),
        **_interval("macro_accuracy", macro_accuracy, macro, settings.confidence),
        "chance": 1.0 / classes,
    }


def _error_2d(predictions: Predictions, draws: Floats, confidence: float) -> dict[str, float]:
    errors_px = metrics.joint_errors(predictions.uv_px, predictions.true_uv_px)
    in_front = predictions.true_joints_cam_mm[..., 2] > 0  # a joint behind the camera has no place in the picture
    counted = predictions.frame_valid[:, None] & in_front & np.isfinite(errors_px)
    videos = len(predictions.keys)
    total = metrics.sum_by_video(np.where(counted, errors_px, 0.0).sum(axis=1), predictions.video_of_frame, videos)
    joints = metrics.sum_by_video(counted.sum(axis=1), predictions.video_of_frame, videos)
    value = float(metrics.ratio(total.sum(), joints.sum()))
    return _interval("error_2d_px", value, metrics.ratio(draws @ total, draws @ joints), confidence)


def _per_class(gesture: Integers, predicted: Integers, gestures: tuple[str, ...]) -> pd.DataFrame:
    matrix = metrics.confusion_matrix(gesture, predicted, len(gestures))
    videos, correct = matrix.sum(axis=1), matrix.diagonal()
    accuracy = metrics.class_accuracy(videos, correct)
    table = pd.DataFrame({"gesture": gestures, "videos": videos, "correct": correct, "accuracy": accuracy})
    return table.round(DECIMALS)


def _per_video(
    predictions: Predictions, predicted: Integers, frames: Floats, sums: PoseSums, names: NDArray[np.str_], dataset: str
) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "key": [shown_key(str(key), dataset) for key in predictions.keys],
            "gesture": names[predictions.gesture],
            "predicted": names[predicted],
            "correct": pd.array((predicted == predictions.gesture).astype(np.int64), dtype="Int64"),
            "frames": frames.astype(np.int64),
            "pck_30_root21": metrics.pck(sums, 30.0),
            "mean_error_mm": metrics.mean_error_mm(sums),
        }
    )
    table.loc[frames == 0, ["predicted", "correct"]] = pd.NA
    return table.round(DECIMALS)


def _curve_rows(sums: dict[tuple[str, str, str], PoseSums]) -> pd.DataFrame:
    tables = []
    for (alignment, joints, source), by_video in sums.items():
        total = metrics.over_all_videos(by_video)
        labels = {"alignment": alignment, "joints": joints, "source": source}
        points = {"threshold_mm": total.thresholds_mm, "pck": metrics.pck_curve(total)}
        tables.append(pd.DataFrame(labels | points))
    return pd.concat(tables, ignore_index=True)


def rounded(value: Any) -> Any:
    """A tree of values with its floats rounded to `DECIMALS`."""
    if isinstance(value, dict):
        return {key: rounded(child) for key, child in value.items()}
    return round(value, DECIMALS) if isinstance(value, float) else value


def _pieces(length: int, step: int, what: str) -> Iterator[slice]:
    """Slices that cover 0…length, under a progress bar."""
    for start in tqdm(range(0, length, step), desc=what, unit=f" × {step}", leave=False, disable=None):
        yield slice(start, min(start + step, length))
