"""Timing things in turn, and what a row of the table is made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

Unit = Literal["frames/s", "ms/frame", "ms/clip", "s"]
RATES: Final[tuple[Unit, ...]] = ("frames/s",)  # the more the faster; of the other units the less


class Row(BaseModel):
    """One line of the table.

    value: the median over the repeats; baseline_value likewise.
    ratio: how many times as fast as the baseline, the median over the repeats of the ratio within a repeat.
    spread: interquartile range / median of the repeats' values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    value: float
    unit: Unit
    baseline_name: str | None
    baseline_value: float | None
    ratio: float | None
    repeats: int
    spread: float


def alternately(
    sides: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    after_round: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each side, `repeats` times, one side after the other.

    The first round warms up and is not counted. Every other round goes backwards, so that a drift of the machine's
    speed within a round favours no side.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name in order:
            start = clock()
            sides[name]()
            if number > 0:
                seconds[name].append(clock() - start)
        after_round()
    return seconds


def spread(values: Sequence[float]) -> float:
    """Interquartile range / median."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float((high - low) / abs(middle))


def row(name: str, values: Sequence[float], unit: Unit, baseline: tuple[str, Sequence[float]] | None = None) -> Row:
    """A row from the repeats' values, with the repeats of a baseline (its name, values in the same unit and order)."""
    ratio = None
    if baseline is not None:
        own, other = np.asarray(values), np.asarray(baseline[1])
        ratio = float(np.median(own / other if unit in RATES else other / own))
    return Row(
        name=name,
        value=float(np.median(values)),
        unit=unit,
        baseline_name=None if baseline is None else baseline[0],
        baseline_value=None if baseline is None else float(np.median(baseline[1])),
        ratio=ratio,
        repeats=len(values),
        spread=spread(values),
    )


def rates(amount: float, seconds: Sequence[float]) -> list[float]:
    """`amount` a second, for each repeat."""
    return [amount / value for value in seconds]


def milliseconds_each(amount: float, seconds: Sequence[float]) -> list[float]:
    """Milliseconds for one of `amount`, for each repeat."""
    return [1000 * value / amount for value in seconds]
