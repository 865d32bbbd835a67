"""Numbers of a comparison in words, alike on every page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENOUGH_SEEDS = 3  # below it a result is preliminary
NOT_SIGNIFICANT = "no significant difference"


def verdict(difference: float, *, significant: bool, seeds: int) -> str:
    """What may be said of a difference to the row it is held against; of too few seeds no more than that."""
    if not significant:
        return NOT_SIGNIFICANT
    if seeds < ENOUGH_SEEDS:
        return "preliminary, too few seeds for a finding"
    return "better" if difference > 0 else "worse"


def mcnemar_text(test: Mapping[str, Any], p: float, *, other: str, level: float) -> str:
    """McNemar: alone right on 9, the baseline on 2 of 72 videos, p = 0.065: no significant difference

    Args:
        test: the fields of a `McNemarTest`.
        p: corrected over the tests beside it.
    """
    counts = f"alone right on {test['only_first']}, {other} on {test['only_second']} of {test['videos']} videos"
    return f"McNemar: {counts}, {p_value(p)}" + ("" if p < level else f": {NOT_SIGNIFICANT}")


def points(share: float) -> str:
    """0.0213 → +2.1"""
    text = f"{100 * share:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def p_value(p: float) -> str:
    """0.0004 → p < 0.001"""
    return "p\u00a0<\u00a00.001" if p < 0.001 else f"p\u00a0=\u00a0{p:.3f}"


def mean_and_spread(values: list[float]) -> str:
    """[0.60, 0.62] → 61.0 ± 1.4 %: percent, with the standard deviation over seeds where there are several."""
    mean = sum(values) / len(values)
    spread = ""
    if len(values) > 1:
        spread = f" ± {100 * (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5:.1f}"
    return f"{100 * mean:.1f}{spread}\u00a0%"
