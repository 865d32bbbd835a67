"""Label-efficiency curves (Fig. 4, middle and right): from the scores by video to curves, areas and gains."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gesturepose.cells import DIRECTIONS
from gesturepose.evaluation import DECIMALS, HEADLINE_MM
from gesturepose.params import WeakSettings
from gesturepose.significance import RatioCounts, area_weights, holm, mcnemar, paired_bootstrap
from gesturepose.video_scores import with_parts

CELL: Final = ["direction", "method", "ratio", "seed"]
HEADLINE: Final = {"pose": "pck_30", "gesture": "accuracy"}
# Of each direction's metrics the columns of a video's numerator and denominator; "" counts videos.
PARTS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "pose": {
        **{f"pck_{mm:g}": (f"hits_{mm:g}", "joints") for mm in HEADLINE_MM},
        "mean_error_mm": ("error_mm", "joints"),
    },
    "gesture": {"accuracy": ("correct", "")},
}


def curve_table(per_video: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """curves.csv: a row for each cell and metric of its direction.

    Args:
        per_video: a row for each cell and video, the columns `CELL` and those of `video_scores`.
        cells: a row for each cell, the columns `CELL` and labelled_videos.
    """
    tables = []
    for direction, metrics in PARTS.items():
        of_direction = per_video[per_video["direction"] == direction]
        for metric, parts in metrics.items():
            sums = with_parts(of_direction, *parts).groupby(CELL, sort=False)[["above", "below"]].sum()
            values = (sums["above"] / sums["below"]).round(DECIMALS)
            tables.append(values.rename("value").reset_index().assign(metric=metric))
    table = pd.concat(tables).merge(cells[[*CELL, "labelled_videos"]], on=CELL, validate="many_to_one")
    return table[[*CELL, "labelled_videos", "metric", "value"]]


def gains(per_video: pd.DataFrame, means: pd.DataFrame, settings: WeakSettings) -> dict[str, Any]:
    """What metrics.json says of each direction: means over the seeds, areas, and gains over the baseline.

    Intervals and p-values are those of the paired bootstrap over videos and seeds on the headline metric, `p_holm`
    is adjusted over the ratios and methods of a direction; `mcnemar` is about the scores averaged over the seeds.

    Args:
        per_video: as for `curve_table`.
        means: of the gesture direction, a row for each method, ratio and video, with `correct` of `mean_answers`.
    """
    return {direction: _direction(per_video, means, direction, settings) for direction in DIRECTIONS}


def at(ratio: float) -> str:
    """The key of a ratio in metrics.json, whose keys DVC takes apart at dots."""
    return f"at_{100 * ratio:g}".replace(".", "_")


def _direction(per_video: pd.DataFrame, means: pd.DataFrame, direction: str, settings: WeakSettings) -> dict[str, Any]:
    rows = with_parts(per_video[per_video["direction"] == direction], *PARTS[direction][HEADLINE[direction]])
    counts = {method: _counts(rows[rows["method"] == method], settings) for method in sorted(rows["method"].unique())}
    single = np.eye(len(settings.ratios))
    weights = {at(ratio): single[place] for place, ratio in enumerate(settings.ratios)}
    weights["area"] = area_weights(settings.ratios)
    found: dict[str, Any] = {"metric": HEADLINE[direction]}
    for method, of_method in counts.items():
        found[method] = {key: of_method.statistic(weight) for key, weight in weights.items()}
        if method == "baseline":
            continue
        gain: dict[str, dict[str, Any]] = {}
        for key, weight in weights.items():
            difference = paired_bootstrap(
                of_method,
                counts["baseline"],
                weights=weight,
                resamples=settings.bootstrap,
                confidence=settings.confidence,
            )
            gain[key] = {name: getattr(difference, name) for name in ("value", "low", "high", "p")}
        if direction == "gesture":
            for ratio in settings.ratios:
                gain[at(ratio)]["mcnemar"] = _mcnemar(means, method, ratio)
        found[method]["gain"] = gain
    tests = [found[method]["gain"][at(ratio)] for method in counts if method != "baseline" for ratio in settings.ratios]
    for family in (tests, [test["mcnemar"] for test in tests if "mcnemar" in test]):
        for test, adjusted in zip(family, holm([test["p"] for test in family]), strict=True):
            test["p_holm"] = adjusted
    return found


def _mcnemar(means: pd.DataFrame, method: str, ratio: float) -> dict[str, float]:
    at_ratio = means[(means["direction"] == "gesture") & (means["ratio"] == ratio)]
    table = at_ratio.pivot(index="video", columns="method", values="correct").astype(bool)
    return asdict(mcnemar(table[method].to_numpy(), table["baseline"].to_numpy()))


def _counts(rows: pd.DataFrame, settings: WeakSettings) -> RatioCounts:
    """[P, S, V] of one curve, ratios and seeds in the order of params.yaml."""
    videos = sorted(rows["video"].unique())
    order = [(ratio, seed, video) for ratio in settings.ratios for seed in settings.seeds for video in videos]
    table = rows.set_index(["ratio", "seed", "video"]).loc[order]
    shape = (len(settings.ratios), len(settings.seeds), len(videos))
    parts: list[NDArray[np.float64]] = [table[part].to_numpy(np.float64).reshape(shape) for part in ("above", "below")]
    return RatioCounts(*parts)
