"""What the reports count: joint errors, PCK, AUC, accuracy, and bootstrap intervals over videos.

NumPy, pure functions. Every pose number is a ratio of two sums over joints, so a video enters by its sums alone
(`PoseSums`): the same few lines score all videos, one video, and ten thousand resamples of the videos.

Axes: V videos, F frames of all videos, J joints, N thresholds, A gestures, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gesturepose.skeleton import WRIST

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PoseSums:
    """Sums over counted joints. The leading axes `...` are [V] videos, [R] resamples, or none."""

    thresholds_mm: NDArray[np.float64]  # [N], rising
    joints: NDArray[np.float64]  # [...] counted joints
    hits: NDArray[np.float64]  # [..., N] those with an error of at most the threshold
    error_mm: NDArray[np.float64]  # [...] sum of their errors


def joint_errors(predicted: Floats, true: Floats) -> NDArray[np.float64]:
    """[..., J, D] twice → [..., J] Euclidean distances in the inputs' unit; NaN where either has a NaN."""
    difference = predicted.astype(np.float64) - true.astype(np.float64)
    distances: NDArray[np.float64] = np.sqrt((difference**2).sum(axis=-1))
    return distances


def root_aligned(joints_mm: Floats) -> Floats:
    """[..., J, 3] → [..., J, 3] relative to the wrist; NaN throughout where the wrist is NaN."""
    return joints_mm - joints_mm[..., WRIST : WRIST + 1, :]


def sum_by_video(values: NDArray[np.generic], video_of_frame: Integers, videos: int) -> NDArray[np.float64]:
    """[F, ...] → [V, ...] sums over each video's frames; `video_of_frame` [F] is in 0…V−1, in any order."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    sums = np.empty((videos, flat.shape[1]))
    for number, column in enumerate(flat.T):
        sums[:, number] = np.bincount(video_of_frame, weights=column, minlength=videos)
    return sums.reshape(videos, *values.shape[1:])


def pose_sums(
    errors_mm: Floats, joint_valid: Mask, thresholds_mm: ArrayLike, video_of_frame: Integers, videos: int
) -> PoseSums:
    """Sums by video of the errors [F, J] of the joints that count, `joint_valid` [F, J].

    An error outside the mask may be anything, NaN included; one inside it has to be finite.
    """
    thresholds = np.asarray(thresholds_mm, dtype=np.float64)
    hidden_as_infinite = np.where(joint_valid, errors_mm, np.inf)
    frame_hits = np.stack([(hidden_as_infinite <= threshold).sum(axis=1) for threshold in thresholds], axis=-1)
    return PoseSums(
        thresholds_mm=thresholds,
        joints=sum_by_video(joint_valid.sum(axis=1), video_of_frame, videos),
        hits=sum_by_video(frame_hits, video_of_frame, videos),
        error_mm=sum_by_video(np.where(joint_valid, errors_mm, 0.0).sum(axis=1), video_of_frame, videos),
    )


def over_all_videos(sums: PoseSums) -> PoseSums:
    """[V] sums → one sum over all of them."""
    return PoseSums(sums.thresholds_mm, sums.joints.sum(axis=0), sums.hits.sum(axis=0), sums.error_mm.sum(axis=0))


def over_resamples(sums: PoseSums, draws: Floats) -> PoseSums:
    """[V] sums → [R] sums, each video as often as `draws` [R, V] says."""
    return PoseSums(sums.thresholds_mm, draws @ sums.joints, draws @ sums.hits, draws @ sums.error_mm)


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    """Element by element with broadcasting; NaN where nothing is counted, 0 / 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(numerator, dtype=np.float64) / np.asarray(denominator, dtype=np.float64)


def pck_curve(sums: PoseSums) -> NDArray[np.float64]:
    """[..., N] share of the counted joints with an error of at most each threshold."""
    return ratio(sums.hits, sums.joints[..., None])


def pck(sums: PoseSums, threshold_mm: float) -> NDArray[np.float64]:
    """[...] the curve at one of its own thresholds.

    Raises:
        ValueError: the sums were not taken at this threshold.
    """
    if threshold_mm not in sums.thresholds_mm:
        raise ValueError(f"{threshold_mm} mm is not among the thresholds {sums.thresholds_mm}")
    return pck_curve(sums)[..., int(np.searchsorted(sums.thresholds_mm, threshold_mm))]


def area_under_curve(sums: PoseSums) -> NDArray[np.float64]:
    """[...] area under the PCK curve by the trapezoid rule, over the thresholds' range: 1 is perfect."""
    span = sums.thresholds_mm[-1] - sums.thresholds_mm[0]
    return np.asarray(np.trapezoid(pck_curve(sums), sums.thresholds_mm, axis=-1) / span)


def mean_error_mm(sums: PoseSums) -> NDArray[np.float64]:
    """[...] mean error of the counted joints."""
    return ratio(sums.error_mm, sums.joints)


def confusion_matrix(gesture: Integers, predicted: Integers, gestures: int) -> Integers:
    """[V] true and predicted classes → [A, A] numbers of videos, a row for each true class."""
    return np.bincount(gesture * gestures + predicted, minlength=gestures**2).reshape(gestures, gestures)


def class_accuracy(videos: ArrayLike, correct: ArrayLike) -> NDArray[np.float64]:
    """[..., A] numbers of videos and of correct ones → [..., A] accuracies, NaN for a class without videos."""
    return ratio(correct, videos)


def macro_accuracy(videos: ArrayLike, correct: ArrayLike) -> NDArray[np.float64]:
    """[..., A] numbers of videos and of correct ones → [...] mean accuracy of the classes that have videos."""
    present = np.asarray(videos) > 0
    return ratio(np.where(present, class_accuracy(videos, correct), 0.0).sum(axis=-1), present.sum(axis=-1))


def draw_videos(videos: int, resamples: int, seed: int) -> Integers:
    """[R, V] video numbers, drawn with replacement: the bootstrap's resamples."""
    return np.random.default_rng(seed).integers(videos, size=(resamples, videos))


def count_draws(drawn: Integers) -> NDArray[np.float64]:
    """[R, V] video numbers → [R, V] how often each resample has each video; a product with it sums a resample."""
    resamples, videos = drawn.shape
    cells = drawn + videos * np.arange(resamples)[:, None]
    return np.bincount(cells.ravel(), minlength=resamples * videos).reshape(resamples, videos).astype(np.float64)


def percentile_interval(resampled: Floats, confidence: float) -> tuple[float, float]:
    """[R] values of a metric → the bounds that leave half of 1 − confidence on either side.

    A resample in which nothing was counted (NaN) says nothing and is left out.
    """
    tail = 50.0 * (1.0 - confidence)
    low, high = np.nanpercentile(resampled, [tail, 100.0 - tail])
    return float(low), float(high)
