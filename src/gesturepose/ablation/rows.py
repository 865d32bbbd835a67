"""What is trained for the tables, and which row of which table it is, with the paper's number beside it.

Rows with equal settings are one training: Table 3's two iterations are Table 4's zero order, Table 3's one iteration is
Table 1's “+ multi-scale”, and the complete network ends Tables 1 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gesturepose.errors import InputError
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


@dataclass(frozen=True)
class Entry:
    """A line of a table."""

    row: str
    label: str
    paper_accuracy: str | None = None  # per cent, as printed
    paper_pck_30: str | None = None
    against: str | None = None  # the row that it is tested against; None for the first


@dataclass(frozen=True)
class Table:
    """A table of the paper, or one beside them."""

    key: str
    title: str
    note: str
    entries: tuple[Entry, ...]
    best_other: str | None = None  # the row that is tested against the most accurate other of the table, too


TABLES: Final = (
    Table(
        "table_1",
        "Table 1: what each part adds",
        "Each row is tested against the one before it. One iteration, but for the last.",
        (
            Entry("baseline", "Baseline", "72.17"),
            Entry("multi_scale", "+ multi-scale", "78.26", against="baseline"),
            Entry("multi_order", "+ multi-order", "83.83", against="multi_scale"),
            Entry(COMPLETE, "+ 2 iterations", "85.22", against="multi_order"),
        ),
    ),
    Table(
        "table_3",
        "Table 3: iterations, zero order",
        "With multi-scale relations. Each row is tested against one iteration.",
        (
            Entry("multi_scale", "1 iteration", "78.3", "87.2"),
            *(
                Entry(f"zero_{count}", f"{count} iterations", accuracy, pck, against="multi_scale")
                for count, accuracy, pck in (
                    (2, "80.9", "89.3"),
                    (3, "81.7", "89.8"),
                    (4, "81.9", "89.9"),
                    (5, "82.0", "89.9"),
                )
            ),
        ),
    ),
    Table(
        "table_3_multi_order",
        "Beside Table 3: iterations, all orders",
        "The paper has no number of three and more: its GPU's memory did not allow them. Each row is tested against "
        "one iteration.",
        (
            Entry("multi_order", "1 iteration", "83.83"),
            Entry(COMPLETE, "2 iterations", "85.22", "90.11", against="multi_order"),
            *(Entry(f"all_{count}", f"{count} iterations", against="multi_order") for count in (3, 4, 5)),
        ),
    ),
    Table(
        "table_4",
        "Table 4: orders, slow and fast",
        "Two iterations. Each row is tested against zero order, the last against the most accurate other row as well.",
        (
            Entry("zero_2", "zero order", "80.87"),
            Entry("first", "+ first order, slow and fast", "82.61", against="zero_2"),
            Entry("second", "+ second order, slow and fast", "83.80", against="zero_2"),
            Entry("slow", "+ first and second order, slow", "82.96", against="zero_2"),
            Entry("fast", "+ first and second order, fast", "82.09", against="zero_2"),
            Entry(COMPLETE, "+ first and second order, slow and fast", "85.22", against="zero_2"),
        ),
        best_other=COMPLETE,
    ),
    Table(
        "own",
        "Choices that the paper leaves open",
        "Each is one change of the complete network, and tested against it.",
        (
            Entry(COMPLETE, "as in this repository", "85.22"),
            Entry("tcn_grid_1", "the TCN reads one number a channel (Sec. 3.3, literally)", against=COMPLETE),
            Entry(CROP_ROW.format("frame"), "a crop a frame: the hand's own motion is taken out", against=COMPLETE),
            Entry("shared", "one set of weights for both iterations", against=COMPLETE),
            Entry("gradient", "gradient through the slow-fast weights", against=COMPLETE),
        ),
    ),
    Table(
        "references",
        "Reference systems",
        "Small networks of the same kind, in this repository, on the same clips; each is tested against the complete "
        "network. The paper's LSTM reads poses that are estimated from depth.",
        (
            Entry(COMPLETE, "the complete network", "85.22"),
            Entry("lstm_annotated", "LSTM on annotated poses", against=COMPLETE),
            Entry("lstm_predicted", "LSTM on the complete network's poses", "72.06", against=COMPLETE),
            Entry("colour", "two-stream, colour", "61.56", against=COMPLETE),
            Entry("flow", "two-stream, flow", "69.91", against=COMPLETE),
            Entry(BOTH_STREAMS, "two-stream, both", "75.30", against=COMPLETE),
            Entry("hp", "hand poses, then an LSTM (H+O, HP)", "62.54", against=COMPLETE),
            Entry("hp_ac", "hand poses and actions, then an LSTM (H+O, HP + AC)", "74.20", against=COMPLETE),
        ),
    ),
)


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


def cell_files(folder: Path, settings: AblationSettings) -> dict[tuple[str, int], Path]:
    """The weights of each row and seed that are trained.

    Raises:
        InputError: one is missing, or there is a file of no row and seed, as of a row that was taken out.
    """
    rows = (*network_rows(settings), *reference_rows(settings))
    files = {(row, seed): folder / f"{row}-{seed}.safetensors" for row in rows for seed in settings.seeds}
    strays = sorted(path for path in folder.glob("*.safetensors") if path not in files.values())
    if strays:
        raise InputError(
            f"{len(strays)} files of no row and seed of params.yaml: {', '.join(path.name for path in strays[:5])}",
            file=folder,
            hint="Delete them, or put their row and seed back.",
        )
    missing = [path for path in files.values() if not path.exists()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(files)} cells are missing",
            file=missing[0],
            hint="`gesturepose matrix ablation` trains them, `dvc checkout` or `dvc pull` brings them.",
        )
    return files
