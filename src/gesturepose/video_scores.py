"""Predictions as small tables by video, which git keeps: curves, intervals and tests need no weights after that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gesturepose import metrics
from gesturepose.data.prepared import PreparedData
from gesturepose.evaluation import HEADLINE_MM, shown_key
from gesturepose.structures import Predictions

COUNTS = ("joints", *(f"hits_{mm:g}" for mm in HEADLINE_MM), "correct")  # whole numbers, or empty


def video_scores(predictions: Predictions, data: PreparedData, *, pose: bool, gesture: bool) -> pd.DataFrame:
    """A row for each video with a readable frame, with counts that add up to the metrics.

    Columns: video; joints (counted), hits_20, hits_25, hits_30 (those with a root-aligned error of at most so many mm)
    and error_mm (the sum of their errors), empty unless `pose`; correct (0 or 1), empty unless `gesture`.
    """
    videos = len(predictions.keys)
    table = pd.DataFrame({"video": [shown_key(str(key), data.name) for key in predictions.keys]})
    if pose:
        errors_mm = metrics.joint_errors(
            metrics.root_aligned(predictions.joints_cam_mm), metrics.root_aligned(predictions.true_joints_cam_mm)
        )
        counted = predictions.frame_valid[:, None] & np.isfinite(predictions.true_joints_cam_mm).all(axis=-1)
        sums = metrics.pose_sums(errors_mm, counted, HEADLINE_MM, predictions.video_of_frame, videos)
        table["joints"] = sums.joints.astype(np.int64)
        for column, mm in enumerate(HEADLINE_MM):
            table[f"hits_{mm:g}"] = sums.hits[:, column].astype(np.int64)
        table["error_mm"] = sums.error_mm.round(3)
    if gesture:
        table["correct"] = (predictions.logits.argmax(axis=1) == predictions.gesture).astype(np.int64)
    columns = ["video", "joints", *(f"hits_{mm:g}" for mm in HEADLINE_MM), "error_mm", "correct"]
    return table[_seen(predictions)].reindex(columns=columns).astype(dict.fromkeys(COUNTS, "Int64"))


def mean_answers(of_seeds: Sequence[Predictions], data: PreparedData) -> pd.DataFrame:
    """Columns video and correct (0 or 1): whether the mean of the softmax scores of several trainings is right."""
    first = of_seeds[0]
    scores = np.mean([_softmax(predictions.logits.astype(np.float64)) for predictions in of_seeds], axis=0)
    table = pd.DataFrame(
        {
            "video": [shown_key(str(key), data.name) for key in first.keys],
            "correct": (scores.argmax(axis=1) == first.gesture).astype(np.int64),
        }
    )
    return table[_seen(first)]


def with_parts(scores: pd.DataFrame, above: str, below: str) -> pd.DataFrame:
    """`video_scores` with numerator and denominator of a ratio as columns above and below; "" counts videos."""
    return scores.assign(above=scores[above].astype(float), below=scores[below].astype(float) if below else 1.0)


def _seen(predictions: Predictions) -> NDArray[np.bool_]:
    return metrics.sum_by_video(predictions.frame_valid, predictions.video_of_frame, len(predictions.keys)) > 0


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponential = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponential / exponential.sum(axis=1, keepdims=True))
