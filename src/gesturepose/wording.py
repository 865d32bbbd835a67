"""Numbers of a comparison in words, alike on every page."""

from __future__ import annotations

NOT_SIGNIFICANT = "no significant difference"


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
