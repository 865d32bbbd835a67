"""What is trained for the tables: the network of each row. Where it stands, and beside which number, is in `paper`."""

from __future__ import annotations

from typing import Any, Final

from gesturepose.params import STREAMS, AblationSettings, NetworkSettings

COMPLETE: Final = "complete"
BOTH_STREAMS: Final = "both"  # the mean of the scores of `colour` and `flow`; without a training of its own
CROP_ROW: Final = "crop_{}"  # of ablation.crops
GESTURE_ONLY: Final = ("lstm_annotated", "lstm_predicted", "colour", "flow", BOTH_STREAMS)  # they say no pose

_COMPLETE: Final[dict[str, Any]] = {
    "iterations": 2,
    "streams": STREAMS,
    "multi_scale": True,
    "share_iterations": False,
    "detach_slow_fast": True,
}
_ZERO: Final[dict[str, Any]] = {"streams": ("zero",)}
CHANGES: Final[dict[str, dict[str, Any]]] = {  # of the complete network, by params.NetworkRow
    "baseline": {"iterations": 1, "multi_scale": False} | _ZERO,
    "multi_scale": {"iterations": 1} | _ZERO,
    "multi_order": {"iterations": 1},
    "complete": {},
    **{f"zero_{count}": {"iterations": count} | _ZERO for count in (2, 3, 4, 5)},
    **{f"all_{count}": {"iterations": count} for count in (3, 4, 5)},
    "first": {"streams": ("zero", "first_slow", "first_fast")},
    "second": {"streams": ("zero", "second_slow", "second_fast")},
    "slow": {"streams": ("zero", "first_slow", "second_slow")},
    "fast": {"streams": ("zero", "first_fast", "second_fast")},
    "tcn_grid_1": {"tcn_grid": 1},
    "shared": {"share_iterations": True},
    "gradient": {"detach_slow_fast": False},
}


def row_settings(row: str, settings: NetworkSettings) -> NetworkSettings:
    """The network of a row: `settings` for all that the tables do not vary. A row of another crop is the complete one.

    What this reads of `settings` are the params of the cells in pipelines/ablation/dvc.yaml.
    """
    return settings.model_copy(update=_COMPLETE | CHANGES.get(row, {}))


def network_rows(settings: AblationSettings) -> tuple[str, ...]:
    """The rows that are collaborative networks."""
    return (*settings.rows, *(CROP_ROW.format(crop) for crop in settings.crops))


def reference_rows(settings: AblationSettings) -> tuple[str, ...]:
    """The reference systems that are trained."""
    return (*settings.references, *settings.flow_references, *settings.pose_references)


def shown_rows(settings: AblationSettings) -> tuple[str, ...]:
    """All rows that have scores: those that are trained, and both streams together."""
    trained = (*network_rows(settings), *reference_rows(settings))
    return (*trained, BOTH_STREAMS) if {"colour", "flow"} <= set(trained) else trained
