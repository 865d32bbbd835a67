"""From scores by video to the tables: means and spreads over the seeds, and tests between the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gesturepose.ablation.paper import TABLES, Entry, Table
from gesturepose.ablation.rows import GESTURE_ONLY
from gesturepose.evaluation import DECIMALS
from gesturepose.params import AblationSettings
from gesturepose.significance import RatioCounts, holm, mcnemar, paired_bootstrap
from gesturepose.video_scores import with_parts

METRICS: Final = {"accuracy": ("correct", ""), "pck_30": ("hits_30", "joints")}  # parts of a ratio; "" counts videos


def result_tables(per_video: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """tables.csv: a line for each row of each table that has scores.

    Columns: table, row, label; seeds; accuracy_mean, accuracy_std, pck_30_mean, pck_30_std over the seeds (std with
    n − 1, empty with one seed; pck_30 root-aligned over 21 joints, empty for rows without poses); paper_accuracy,
    paper_pck_30 as shares; parameters, gmac_a_frame.

    Args:
        per_video: a line for each row, seed and video: row, seed, and the columns of `video_scores`.
        cells: a line for each row and seed: row, seed, parameters, gmac_a_frame.
    """
    lines = []
    for table, entry in _present(per_video):
        scores = per_video[per_video["row"] == entry.row]
        cost = cells[cells["row"] == entry.row].iloc[0]
        line: dict[str, object] = {"table": table.key, "row": entry.row, "label": entry.label}
        line["seeds"] = scores["seed"].nunique()
        for metric in METRICS:
            by_seed = _by_seed(scores, metric) if _has(entry.row, metric) else np.array([np.nan])
            line[f"{metric}_mean"] = by_seed.mean()
            line[f"{metric}_std"] = by_seed.std(ddof=1) if len(by_seed) > 1 else np.nan
        line["paper_accuracy"], line["paper_pck_30"] = _share(entry.paper_accuracy), _share(entry.paper_pck_30)
        line["parameters"], line["gmac_a_frame"] = int(cost["parameters"]), float(cost["gmac_a_frame"])
        lines.append(line)
    return pd.DataFrame(lines).round(DECIMALS)


def row_tests(per_video: pd.DataFrame, means: pd.DataFrame, settings: AblationSettings) -> dict[str, Any]:
    """What metrics.json says of each table and row: means over the seeds, and the tests against other rows.

    `accuracy` and `pck_30` are the row's; under `against`, by the name of the other row, stand the differences with
    intervals and p-values of the paired bootstrap over videos and seeds, and McNemar's test of the scores averaged over
    the seeds. `p_holm` is adjusted over all such tests of a table, for each metric and kind of test apart.

    Args:
        means: a line for each row and video: row, video, and `correct` of `mean_answers`.
    """
    found: dict[str, Any] = {}
    for table in TABLES:
        entries = [entry for of, entry in _present(per_video) if of is table]
        if not entries:
            continue
        rows: dict[str, Any] = {}
        for entry in entries:
            accuracy = _by_seed(per_video[per_video["row"] == entry.row], "accuracy").mean()
            rows[entry.row] = {"accuracy": float(accuracy)}
            if _has(entry.row, "pck_30"):
                rows[entry.row]["pck_30"] = float(_by_seed(per_video[per_video["row"] == entry.row], "pck_30").mean())
        for entry in entries:
            if against := _others(table, entry, rows):
                rows[entry.row]["against"] = {
                    other: _difference(per_video, means, entry.row, other, settings) for other in against
                }
        _adjust([test for row in rows.values() for test in row.get("against", {}).values()])
        found[table.key] = rows
    return found


def _others(table: Table, entry: Entry, rows: dict[str, Any]) -> list[str]:
    """The rows that an entry is tested against, of those that are there."""
    others = [entry.against] if entry.against in rows else []
    if entry.row == table.best_other:
        candidates = [row for row in rows if row != entry.row]
        if candidates and (best := max(candidates, key=lambda row: rows[row]["accuracy"])) not in others:
            others.append(best)
    return [other for other in others if other is not None]


def _difference(
    per_video: pd.DataFrame, means: pd.DataFrame, row: str, other: str, settings: AblationSettings
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for metric in METRICS:
        if _has(row, metric) and _has(other, metric):
            difference = paired_bootstrap(
                *_counts(per_video, (row, other), metric, settings.seeds),
                resamples=settings.bootstrap,
                confidence=settings.confidence,
            )
            found[metric] = {name: getattr(difference, name) for name in ("value", "low", "high", "p")}
    answers = means[means["row"].isin((row, other))].pivot(index="video", columns="row", values="correct").dropna()
    found["mcnemar"] = asdict(mcnemar(*(answers[name].to_numpy().astype(np.bool_) for name in (row, other))))
    return found


def _adjust(of_table: Sequence[dict[str, Any]]) -> None:
    """Put `p_holm` beside each p, over all tests of a table of the same metric and kind."""
    for kind in (*METRICS, "mcnemar"):
        family = [test[kind] for test in of_table if kind in test]
        for test, adjusted in zip(family, holm([test["p"] for test in family]), strict=True):
            test["p_holm"] = adjusted


def _counts(
    per_video: pd.DataFrame, rows: Sequence[str], metric: str, seeds: Sequence[int]
) -> tuple[RatioCounts, RatioCounts]:
    """[1, S, V] of two rows, over the videos that both have, in one order."""
    tables = [
        with_parts(per_video[per_video["row"] == row], *METRICS[metric]).set_index(["seed", "video"]) for row in rows
    ]
    in_all = [set(table.index.get_level_values("video")) for table in tables]
    videos = sorted(set.intersection(*in_all))
    order = pd.MultiIndex.from_product([seeds, videos], names=["seed", "video"])
    shape = (1, len(seeds), len(videos))

    def counts(table: pd.DataFrame) -> RatioCounts:
        parts: list[NDArray[np.float64]] = [
            table.loc[order, part].to_numpy(np.float64).reshape(shape) for part in ("above", "below")
        ]
        return RatioCounts(*parts)

    return counts(tables[0]), counts(tables[1])


def _by_seed(scores: pd.DataFrame, metric: str) -> NDArray[np.float64]:
    """[S] the metric of each seed of one row."""
    sums = with_parts(scores, *METRICS[metric]).groupby("seed")[["above", "below"]].sum()
    values: NDArray[np.float64] = (sums["above"] / sums["below"]).to_numpy(np.float64)
    return values


def _present(per_video: pd.DataFrame) -> list[tuple[Table, Entry]]:
    """The lines of all tables whose row has scores; a table of a single line compares nothing and is left out."""
    rows = set(per_video["row"])
    found = []
    for table in TABLES:
        entries = [entry for entry in table.entries if entry.row in rows]
        if len(entries) > 1:
            found += [(table, entry) for entry in entries]
    return found


def _has(row: str, metric: str) -> bool:
    return metric == "accuracy" or row not in GESTURE_ONLY


def _share(printed: str | None) -> float:
    return float("nan") if printed is None else float(printed) / 100.0
