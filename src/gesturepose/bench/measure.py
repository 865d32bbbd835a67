"""Timing things in turn, and what a line of the table is made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from gesturepose.metrics import percentile_interval

Unit = Literal["frames/s", "ms/frame", "ms/clip", "ms/step", "s", "%", "MiB"]
RATES: Final[tuple[Unit, ...]] = ("frames/s",)  # the more the better; of the other units the less
CONFIDENCE: Final = 0.95
_RESAMPLES: Final = 2000


class Measurement(BaseModel):
    """One line of the table. What was not measured has neither values nor repeats, and says why not.

    value: the median over the repeats; baseline_value likewise.
    ratio: how many times as good as the baseline (as fast, or as little memory), the median over the repeats of the
        ratio within a repeat.
    ratio_low, ratio_high: its 95 % interval, from a bootstrap over the repeats.
    spread: interquartile range / median of the repeats' values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    value: float | None
    unit: Unit
    baseline_name: str | None
    baseline_value: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    repeats: int
    spread: float | None
    not_measured: str | None


class Row(Measurement):
    """A line with the title of the section it stands in."""

    section: str


class Section(BaseModel):
    """A part of the report: its title, and what a reader has to know of its rows."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: str
    about: str

    def rows(self, measurements: Sequence[Measurement]) -> list[Row]:
        """The lines as rows of this section."""
        return [Row(section=self.title, **measurement.model_dump()) for measurement in measurements]


class Values(NamedTuple):
    """What a row is compared with: its name, and its values in the row's unit, repeat by repeat."""

    name: str
    values: Sequence[float]


def alternately(
    sides: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    warm_up: bool = True,
    before: Callable[[str], object] = lambda name: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each side, `repeats` times, one side after the other.

    Every other round goes backwards, so that a drift of the machine's speed within a round favours no side.

    Args:
        warm_up: run one round more, the first, that is not counted.
        before: called with a side's name before each of its turns, outside the time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(0 if warm_up else 1, repeats + 1):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name in order:
            before(name)
            start = clock()
            sides[name]()
            elapsed = clock() - start
            if number > 0:
                seconds[name].append(elapsed)
    return seconds


def spread(values: Sequence[float]) -> float:
    """Interquartile range / median; 0 where all are 0."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float((high - low) / abs(middle)) if high != low else 0.0


def paired_ratios(values: Sequence[float], baseline: Sequence[float], unit: Unit) -> list[float]:
    """How many times as good as the baseline, repeat by repeat."""
    return [own / other if unit in RATES else other / own for own, other in zip(values, baseline, strict=True)]


def ratio_interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median: percentiles of a bootstrap over the repeats; of one repeat, that one twice."""
    paired = np.asarray(ratios)
    draws = np.random.default_rng(0).integers(len(paired), size=(_RESAMPLES, len(paired)))
    return percentile_interval(np.median(paired[draws], axis=1), CONFIDENCE)


def row(name: str, values: Sequence[float], unit: Unit, baseline: Values | None = None) -> Measurement:
    """A line from the repeats' values, and those of the baseline where there is one."""
    ratios = None if baseline is None else paired_ratios(values, baseline.values, unit)
    low, high = (None, None) if ratios is None else ratio_interval(ratios)
    return Measurement(
        name=name,
        value=float(np.median(values)),
        unit=unit,
        baseline_name=None if baseline is None else baseline.name,
        baseline_value=None if baseline is None else float(np.median(baseline.values)),
        ratio=None if ratios is None else float(np.median(ratios)),
        ratio_low=low,
        ratio_high=high,
        repeats=len(values),
        spread=spread(values),
        not_measured=None,
    )


def not_measured(name: str, unit: Unit, reason: str, baseline_name: str) -> Measurement:
    """A line that this machine cannot fill, for a reason of a few words."""
    return Measurement(
        name=name,
        value=None,
        unit=unit,
        baseline_name=baseline_name,
        baseline_value=None,
        ratio=None,
        ratio_low=None,
        ratio_high=None,
        repeats=0,
        spread=None,
        not_measured=reason,
    )


def rates(amount: float, seconds: Sequence[float]) -> list[float]:
    """`amount` a second, for each repeat."""
    return [amount / value for value in seconds]


def milliseconds_each(amount: float, seconds: Sequence[float]) -> list[float]:
    """Milliseconds for one of `amount`, for each repeat."""
    return [1000 * value / amount for value in seconds]
