"""The table as bench.json and bench.md."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from gesturepose.bench.machine import Machine
from gesturepose.bench.measure import Row
from gesturepose.checkpoint import write_atomically

_EXPLANATION = """\
Written by `make bench`. Each value is the median of its repeats. The ratio says how many times as fast as the baseline
it is: both are measured in turn within one run after a warm-up, and it is the median of the repeats' own ratios. The
spread is the interquartile range of the values over their median.
"""


class Table(BaseModel):
    """bench.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    machine: Machine
    commit: str
    dirty: bool  # there were uncommitted changes
    rows: list[Row]


def write_table(table: Table, folder: Path) -> None:
    """bench.json and bench.md in `folder`."""
    write_atomically(folder / "bench.json", (table.model_dump_json(indent=1) + "\n").encode())
    write_atomically(folder / "bench.md", markdown(table).encode())


def markdown(table: Table) -> str:
    """The table for reading."""
    machine = table.machine
    lines = [
        "# Speed",
        "",
        _EXPLANATION,
        f"- Commit: {table.commit}{', with uncommitted changes' if table.dirty else ''}",
        f"- Processor: {machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB",
        f"- Features: {', '.join(machine.cpu_features) or 'unknown'}",
        f"- GPU: {machine.gpu or 'none'}",
        f"- Versions: Python {machine.python}, PyTorch {machine.torch}, OpenCV {machine.opencv}, NumPy {machine.numpy}",
        f"- Network rows: on {machine.device} with {machine.threads} threads, "
        f"deterministic {'on' if machine.deterministic else 'off'}",
        f"- Load of the machine in the minute before: {machine.load_before:g}",
        "",
        "| what | value | unit | baseline | its value | ratio | repeats | spread |",
        "|---|---:|---|---|---:|---:|---:|---:|",
    ]
    for entry in table.rows:
        against = (entry.baseline_name or "", _number(entry.baseline_value), _number(entry.ratio))
        lines.append(
            f"| {entry.name} | {_number(entry.value)} | {entry.unit} | {against[0]} | {against[1]} | {against[2]} "
            f"| {entry.repeats} | {100 * entry.spread:.0f} % |"
        )
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    """Three digits that count, without an exponent."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
