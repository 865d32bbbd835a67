"""Revisions laid side by side: what they share is tested in pairs, what they do not share is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd

from gesturepose.compare.revisions import Revision
from gesturepose.curve_plots import COLOURS, METHODS, PANELS
from gesturepose.errors import InputError
from gesturepose.significance import (
    McNemarTest,
    PairedDifference,
    RatioCounts,
    area_weights,
    holm,
    mcnemar,
    paired_bootstrap,
)

RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95
_Cells: TypeAlias = Mapping[tuple[float, int], pd.DataFrame]
_SAME_VIDEOS: Final = ("name", "protocol", "split")  # where they differ, the test videos are others


@dataclass(frozen=True)
class Score:
    """The metric of one revision at one ratio, or its area over several."""

    by_seed: Mapping[int, float]
    labelled_videos: str  # empty for an area

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.by_seed.values())))

    @property
    def std(self) -> float:
        """Sample standard deviation over the seeds; NaN for one."""
        return float(np.std(list(self.by_seed.values()), ddof=1)) if len(self.by_seed) > 1 else float("nan")


@dataclass(frozen=True)
class Gain:
    """A revision against the first one, over the seeds and videos that both have."""

    difference: PairedDifference
    p_adjusted: float  # Holm, over all gains of the table
    mcnemar: McNemarTest | None  # on scores averaged over the seeds; accuracy at one ratio alone has it
    mcnemar_adjusted: float  # Holm, over the table's McNemar tests

    @property
    def significant(self) -> bool:
        return self.p_adjusted < 1.0 - self.difference.confidence


@dataclass(frozen=True)
class Row:
    """One ratio, or the area over the ratios that all revisions have; a revision without it has None."""

    label: str
    ratios: tuple[float, ...]
    scores: tuple[Score | None, ...]
    gains: tuple[Gain | None, ...]  # the first revision's is None


@dataclass(frozen=True)
class Table:
    """One direction and method."""

    direction: str
    method: str
    metric: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Difference:
    """Something that is not the same in all revisions, with its value in each; None where it is absent."""

    what: str
    values: tuple[str | None, ...]
    remark: str = ""


@dataclass(frozen=True)
class Comparison:
    """All that the page says."""

    revisions: tuple[Revision, ...]
    tables: tuple[Table, ...]
    params: tuple[Difference, ...]
    data: tuple[Difference, ...]
    code: tuple[Difference, ...]
    notes: tuple[str, ...]  # what the revisions do not share, and what else a reader has to know


def compare_revisions(revisions: Sequence[Revision]) -> Comparison:
    """Align and test.

    Raises:
        InputError: more revisions than the figure has colours, or one without a single row of the headline metrics.
    """
    if len(revisions) > len(COLOURS):
        raise InputError(f"{len(revisions)} revisions, and at most {len(COLOURS)} can be told apart in one figure")
    for revision in revisions:
        if not any(len(_scores(revision, direction, method)) for direction in PANELS for method in METHODS):
            raise InputError(
                f"reports/weak/curves.csv of {revision.name} has neither pck_30 of pose nor accuracy of gesture",
                hint="Another version of the pipeline wrote it.",
            )
    remarks: dict[str, list[str]] = {}
    tables = []
    for direction, method in product(PANELS, METHODS):
        table, said = _table(revisions, direction, method)
        tables += [] if table is None else [table]
        for remark in dict.fromkeys(said):
            remarks.setdefault(remark, []).append(f"{direction} {method}")
    notes = _unlike(revisions)
    notes += [
        remark if len(where) == len(tables) else f"{', '.join(where)}: {remark}" for remark, where in remarks.items()
    ]
    first = revisions[0]
    for other in revisions[1:]:
        if other.curves.equals(first.curves):
            notes.append(f"{first.name} and {other.name} have the same curve, value by value.")
    return Comparison(
        tuple(revisions),
        tuple(tables),
        params=_differences(revisions, lambda revision: revision.params, _unread(revisions)),
        data=_differences(revisions, lambda revision: revision.data),
        code=_differences(revisions, lambda revision: revision.lineage.code),
        notes=tuple(notes),
    )


def _unlike(revisions: Sequence[Revision]) -> list[str]:
    """What the curves of some revisions have and those of others lack, or this page does not show: metrics, methods."""
    notes = []
    for column in ("metric", "method"):
        pairs = [set(zip(own.curves["direction"], own.curves[column], strict=True)) for own in revisions]
        for direction, value in sorted(set().union(*pairs)):
            lacking = [own.name for own, there in zip(revisions, pairs, strict=True) if (direction, value) not in there]
            if lacking:
                notes.append(f"{direction}: no {column} {value} in {', '.join(lacking)}.")
            if column == "method" and value not in METHODS:
                notes.append(f"{direction}: the method {value} is not shown.")
    return notes


def _table(revisions: Sequence[Revision], direction: str, method: str) -> tuple[Table | None, list[str]]:
    """The table, None where no revision has the method, and what is to be noted about it."""
    scores = [_scores(revision, direction, method) for revision in revisions]
    ratios = sorted(set().union(*scores))
    if not ratios:
        return None, []
    notes = []
    for revision, own in zip(revisions, scores, strict=True):
        missing = [f"{ratio:g}" for ratio in ratios if ratio not in own]
        if own and missing:  # without any, the method or metric itself is missing, which `_unlike` says
            notes.append(f"{revision.name} has no ratio {', '.join(missing)}.")
    common = [ratio for ratio in ratios if all(ratio in own for own in scores)]
    spans: list[tuple[str, tuple[float, ...]]] = [(f"{ratio:g}", (ratio,)) for ratio in ratios]
    if len(common) > 1:
        spans.append((f"area over {common[0]:g}–{common[-1]:g}", tuple(common)))
    cells = [_cells(revision, direction, method) for revision in revisions]
    rows = []
    for label, span in spans:
        gains: list[Gain | None] = [None]
        for other, own_cells in zip(revisions[1:], cells[1:], strict=True):
            gain, said = _gain(revisions[0], other, (cells[0], own_cells), direction, method, span)
            gains.append(gain)
            notes += said
        rows.append(Row(label, span, tuple(_over(own, span) for own in scores), tuple(gains)))
    return Table(direction, method, PANELS[direction][0], _corrected(rows)), notes


def _scores(revision: Revision, direction: str, method: str) -> dict[float, Score]:
    """By ratio, from the curve's table."""
    table = revision.curves
    chosen = table[
        (table["direction"] == direction) & (table["method"] == method) & (table["metric"] == PANELS[direction][0])
    ]
    found = {}
    for ratio, rows in chosen.groupby("ratio"):
        labelled = sorted(set(rows["labelled_videos"])) if "labelled_videos" in rows else []
        by_seed = dict(sorted(zip(rows["seed"].astype(int), rows["value"].astype(float), strict=True)))
        found[float(str(ratio))] = Score(by_seed, ", ".join(map(str, labelled)))
    return found


def _over(scores: Mapping[float, Score], span: tuple[float, ...]) -> Score | None:
    """One ratio's score, or the area over several for the seeds that all of them have."""
    if not all(ratio in scores for ratio in span):
        return None
    if len(span) == 1:
        return scores[span[0]]
    weights = area_weights(span)
    seeds = set.intersection(*(set(scores[ratio].by_seed) for ratio in span))
    areas = {seed: float(weights @ [scores[ratio].by_seed[seed] for ratio in span]) for seed in sorted(seeds)}
    return Score(areas, "") if areas else None


def _gain(
    first: Revision, other: Revision, cells: tuple[_Cells, _Cells], direction: str, method: str, span: tuple[float, ...]
) -> tuple[Gain | None, list[str]]:
    """The paired difference, not yet corrected, None where the two share nothing to pair; and what is to be noted."""
    pair = f"{first.name} and {other.name}"
    if others := [key for key in _SAME_VIDEOS if first.data[key] != other.data[key]]:
        return None, [f"{pair} have other test videos (data: {', '.join(others)}): nothing is tested between them."]
    notes = []
    if first.data["fingerprint"] != other.data["fingerprint"]:
        notes.append(
            f"{pair} have different prepared data (fingerprint). Videos are paired by name: where the recordings "
            "themselves differ, the tests between them do not hold."
        )
    if not all(any(key[0] == ratio for key in own) for own in cells for ratio in span):
        return None, notes
    seed_sets = [set.intersection(*({key[1] for key in own if key[0] == ratio} for ratio in span)) for own in cells]
    seeds = sorted(set.intersection(*seed_sets))
    if seed_sets[0] != seed_sets[1]:
        alone = ", ".join(map(str, sorted(set.symmetric_difference(*seed_sets))))
        shared = f"are over {', '.join(map(str, seeds))}" if seeds else "cannot be made"
        notes.append(f"{pair} do not share seed {alone}; paired tests between them {shared}.")
    if not seeds:
        return None, notes
    video_sets = [set.intersection(*(set(own[ratio, seed].index) for ratio in span for seed in seeds)) for own in cells]
    videos = sorted(set.intersection(*video_sets))
    if video_sets[0] != video_sets[1]:
        alone_videos = sorted(set.symmetric_difference(*video_sets))
        shown = ", ".join(alone_videos[:3]) + (" …" if len(alone_videos) > 3 else "")
        notes.append(
            f"{pair} share {len(videos)} test videos, over which they are tested; {len(alone_videos)} are in one of "
            f"them alone ({shown})."
        )
    if not videos:
        return None, notes
    counts = [_counts(own, direction, span, seeds, videos) for own in cells]
    difference = paired_bootstrap(
        counts[1], counts[0], weights=area_weights(span), resamples=RESAMPLES, confidence=CONFIDENCE
    )
    test = _mcnemar(first, other, method, span[0]) if direction == "gesture" and len(span) == 1 else None
    return Gain(difference, difference.p, test, 1.0 if test is None else test.p), notes


def _cells(revision: Revision, direction: str, method: str) -> _Cells:
    """By ratio and seed, the videos (index) that have a value for the direction's metric."""
    table = revision.per_video
    chosen = table[(table["direction"] == direction) & (table["method"] == method)]
    chosen = chosen.dropna(subset=["joints", "hits_30"] if direction == "pose" else ["correct"]).set_index("video")
    return {
        (float(ratio), int(seed)): chosen[(chosen["ratio"] == ratio) & (chosen["seed"] == seed)]
        for ratio in chosen["ratio"].unique()
        for seed in chosen.loc[chosen["ratio"] == ratio, "seed"].unique()
    }


def _counts(
    cells: Mapping[tuple[float, int], pd.DataFrame],
    direction: str,
    span: Sequence[float],
    seeds: Sequence[int],
    videos: list[str],
) -> RatioCounts:
    def stacked(column: str) -> np.ndarray:
        return np.stack([[cells[ratio, seed].loc[videos, column].to_numpy(float) for seed in seeds] for ratio in span])

    if direction == "pose":
        return RatioCounts(stacked("hits_30"), stacked("joints"))
    correct = stacked("correct")
    return RatioCounts(correct, np.ones_like(correct))


def _mcnemar(first: Revision, other: Revision, method: str, ratio: float) -> McNemarTest | None:
    """`other` against `first` on the videos that both have, by the classes of scores averaged over all their seeds."""
    right = []
    for revision in (other, first):
        table = revision.seed_mean
        chosen = table[(table["direction"] == "gesture") & (table["method"] == method) & (table["ratio"] == ratio)]
        right.append(chosen.dropna(subset=["correct"]).set_index("video")["correct"].astype(bool))
    videos = right[0].index.intersection(right[1].index).sort_values()
    return mcnemar(*(own.loc[videos].to_numpy(bool) for own in right)) if len(videos) else None


def _corrected(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Holm's correction over the table: one family of all paired gains, one of all McNemar tests."""
    gains = [gain for row in rows for gain in row.gains if gain is not None]
    adjusted = iter(holm([gain.difference.p for gain in gains]))
    tested = iter(holm([gain.mcnemar.p for gain in gains if gain.mcnemar is not None]))
    return tuple(
        replace(
            row,
            gains=tuple(
                gain
                and replace(gain, p_adjusted=next(adjusted), mcnemar_adjusted=next(tested) if gain.mcnemar else 1.0)
                for gain in row.gains
            ),
        )
        for row in rows
    )


def _differences(
    revisions: Sequence[Revision],
    values: Callable[[Revision], Mapping[str, Any]],
    remark: Callable[[str], str] = lambda key: "",
) -> tuple[Difference, ...]:
    of_all = [values(revision) for revision in revisions]
    keys = dict.fromkeys(key for own in of_all for key in own)
    return tuple(
        Difference(key, tuple(str(own[key]) if key in own else None for own in of_all), remark(key))
        for key in keys
        if any((key in own) != (key in of_all[0]) or own.get(key) != of_all[0].get(key) for own in of_all)
    )


def _unread(revisions: Sequence[Revision]) -> Callable[[str], str]:
    def remark(key: str) -> str:
        read = any(revision.lineage.reads(key) for revision in revisions)
        return "" if read else "not among the params of the curve's stages"

    return remark
