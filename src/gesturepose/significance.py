"""Whether two rows of a table differ: McNemar's test, a paired bootstrap over videos and seeds, Holm's correction.

NumPy and SciPy, pure functions. A row is a method, a setting or a revision, trained once for each seed and scored on
the same test videos. Both parts of the randomness belong to a comparison: which videos were tested, and which seeds
were trained (Bouthillier et al., "Accounting for Variance in Machine Learning Benchmarks", MLSys 2021).

What three seeds carry: a difference that is large against the spread of the seeds, said with an interval that shows it.
What resampling them cannot: a resample is the lowest of three seeds three times over once in 27, more often than 2.5 %,
so where the seeds differ far more than the videos do, a 95 % interval is simply the lowest and the highest seed's
difference, which holds the true one three times out of four and not 95 of 100; three seeds without any difference
agree in sign once in four. So a p-value here is the greater of the bootstrap's and of a paired t-test over the seeds,
which knows how few they are: a finding has to hold for other videos and for other trainings. One seed says nothing
about another training at all.

Axes: P points of a curve, S seeds, V videos, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gesturepose.metrics import Floats, Mask, count_draws, draw_videos, percentile_interval, ratio


@dataclass(frozen=True)
class McNemarTest:
    """Two classifiers on the same videos; only the videos on which they disagree count."""

    videos: int
    only_first: int  # videos that the first alone has right
    only_second: int
    p: float  # exact, two-sided


@dataclass(frozen=True)
class PairedDifference:
    """A row's statistic minus that of the row it is held against, with its bootstrap interval."""

    value: float
    low: float
    high: float
    confidence: float
    p: float  # two-sided, of no difference: over videos and seeds
    resamples: int
    seeds: int
    videos: int


@dataclass(frozen=True)
class RatioCounts:
    """What a ratio metric of one row is made of, video by video, at each point of its curve.

    PCK has the joints within the threshold over the counted joints, a mean error the sum of errors over them, accuracy
    0 or 1 over 1. A row without a curve has one point.
    """

    numerators: Floats  # [P, S, V]
    denominators: Floats  # [P, S, V]

    def __post_init__(self) -> None:
        shape = np.shape(self.numerators)
        if len(shape) != 3 or shape != np.shape(self.denominators) or 0 in shape:
            raise ValueError(f"expected [P, S, V] twice, not {shape} and {np.shape(self.denominators)}")

    def by_seed(self, weights: Floats) -> NDArray[np.float64]:
        """[S] Σ weights [P] · (sum over the videos / sum over the videos)."""
        found: NDArray[np.float64] = weights @ ratio(self.numerators.sum(axis=2), self.denominators.sum(axis=2))
        return found

    def statistic(self, weights: Floats) -> float:
        """The mean of `by_seed`."""
        return float(self.by_seed(weights).mean())

    def resampled(self, weights: Floats, video_counts: Floats, seed_counts: Floats) -> NDArray[np.float64]:
        """[R] the statistic with each video and seed as often as [R, V] and [R, S] say; NaN where nothing counts."""
        points, seeds, videos = self.numerators.shape
        sums = [
            (video_counts @ counts.reshape(points * seeds, videos).T).reshape(-1, points, seeds)
            for counts in (self.numerators, self.denominators)
        ]
        by_point = np.einsum("rps,rs->rp", ratio(*sums), seed_counts / seeds)
        resampled: NDArray[np.float64] = by_point @ weights
        return resampled


def mcnemar(first: Mask, second: Mask) -> McNemarTest:
    """McNemar's exact test of two classifiers that were right on the videos [V] and [V].

    Without a difference the discordant videos fall to either side with probability ½ (McNemar 1947; exact binomial
    form). It is about the videos for classifiers as they are: for rows of several seeds hand in the classes of the
    scores averaged over the seeds. That is the test of one ensemble against another, and whether other seeds
    would agree is left open; `paired_bootstrap` draws the seeds too.

    Raises:
        ValueError: the two have different shapes, or hold something else than truth values.
    """
    from scipy.stats import binomtest

    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"expected [V] twice, not {first.shape} and {second.shape}")
    if first.dtype != np.bool_ or second.dtype != np.bool_:
        raise ValueError(f"expected truth values, not {first.dtype} and {second.dtype}")
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return McNemarTest(len(first), only_first, only_second, p)


def paired_bootstrap(
    row: RatioCounts,
    reference: RatioCounts,
    *,
    weights: ArrayLike = (1.0,),
    resamples: int,
    confidence: float,
    seed: int = 0,
) -> PairedDifference:
    """`row` minus `reference`: Σ over the points of weights [P] · mean over the seeds of the ratio of sums over videos.

    Both hold the same videos and seeds in the same order. Each resample draws videos and, independently, seeds with
    replacement, the same draw for both rows and all points, so that what makes a video hard or a seed lucky for both
    cancels. With one seed only the videos vary, and the interval says nothing about another training; with three it
    is at best the range of the three (see the module's text).

    The bootstrap's p-value counts resamples on the far side of zero, 2 · min((1 + #≤0) / (R + 1), (1 + #≥0) / (R + 1)),
    at most 1 (Davison & Hinkley, "Bootstrap Methods and their Application", 1997, Eq. 4.11 for the ones). Resamples in
    which nothing is counted are left out, and of `resamples`. With several seeds `p` is the greater of it and of
    Student's paired t-test over the seeds' differences.

    Raises:
        ValueError: shapes differ, or a ratio has nothing to count.
    """
    shape = row.numerators.shape
    point_weights = np.asarray(weights, dtype=np.float64)
    if reference.numerators.shape != shape or point_weights.shape != shape[:1]:
        raise ValueError(
            f"expected rows [P, S, V] and weights [P], not {shape}, {reference.numerators.shape}, {point_weights.shape}"
        )
    _, seeds, videos = shape
    value = row.statistic(point_weights) - reference.statistic(point_weights)
    if not np.isfinite(value):
        raise ValueError("at some point and seed no video has anything to count")
    video_counts = _counts(videos, resamples, seed)
    seed_counts = _counts(seeds, resamples, seed + 1)  # a stream of its own
    differences = row.resampled(point_weights, video_counts, seed_counts)
    differences -= reference.resampled(point_weights, video_counts, seed_counts)
    differences = differences[np.isfinite(differences)]
    kept = len(differences)
    low, high = percentile_interval(differences, confidence)
    # A difference of sums that are equal may come out as 1e-17: it counts as zero, on both sides.
    zero = np.abs(differences) < 1e-12 * max(1.0, float(np.abs(differences).max()))
    tails = [((differences < 0) | zero).sum(), ((differences > 0) | zero).sum()]
    p = min(1.0, 2.0 * (1.0 + float(min(tails))) / (kept + 1.0))
    p = max(p, _seeds_p(row.by_seed(point_weights) - reference.by_seed(point_weights)))
    return PairedDifference(value, low, high, confidence, p, kept, seeds, videos)


def _seeds_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p of no mean difference [S] over seeds; 0 for one seed, which tests nothing."""
    from scipy.stats import ttest_1samp

    if len(differences) == 1:
        return 0.0
    if np.ptp(differences) < 1e-12:  # seeds alike: a spread of rounding alone tells nothing
        return 1.0 if abs(float(differences.mean())) < 1e-12 else 0.0
    return float(ttest_1samp(differences, 0.0).pvalue)


@lru_cache(maxsize=4)
def _counts(items: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """[R, items] how often each resample has each item: the same for all rows of a table, computed once."""
    return count_draws(draw_videos(items, resamples, seed))


def area_weights(positions: Sequence[float]) -> NDArray[np.float64]:
    """[P] weights that make a sum over a curve's points the area under it, by the trapezoid rule over its range.

    A flat curve's area is its height; a single point is its own area.

    Raises:
        ValueError: the positions do not rise.
    """
    at = np.asarray(positions, dtype=np.float64)
    widths = np.diff(at)
    if at.ndim != 1 or not len(at) or (widths <= 0).any():
        raise ValueError(f"expected rising positions, not {list(positions)}")
    if len(at) == 1:
        return np.ones(1)
    weights = np.zeros(len(at))
    weights[:-1] += widths / 2
    weights[1:] += widths / 2
    return weights / widths.sum()


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of one family of tests, adjusted so that the chance of any false finding stays below the level.

    Holm's step-down procedure (1979): the k-th smallest of n is multiplied by n − k + 1, never smaller than the one
    before it, at most 1. It asks nothing of how the tests depend on each other. The order is the given one.

    Raises:
        ValueError: a value outside 0…1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"not all are p-values: {list(p_values)}")
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(raised, 1.0)
    return [float(value) for value in adjusted]
