"""Which row stands in which table, beside which number of the paper, and against which other row it is tested.

Rows with equal settings are one training: Table 3's two iterations are Table 4's zero order, Table 3's one iteration is
Table 1's “+ multi-scale”, and the complete network ends Tables 1 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gesturepose.ablation.rows import BOTH_STREAMS, COMPLETE, CROP_ROW


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
        "network. The LSTMs on poses have steps and a rate of their own. The one on predicted poses learns from those "
        "of the videos that the complete network was trained on, which are better than those of others; both know the "
        "true wrist depth, as every 3D pose here does. The LSTM of H+O learns beside its poses, in the same steps. The "
        "paper's LSTM reads poses that are estimated from depth.",
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
